# shellcheck shell=bash disable=SC2034 # sourced: the variables are for the scripts that source it
# How an image becomes an archive in the cache. It must never do anything by being sourced.

cache=${FINETUNE_CACHE:-$HOME/.cache/finetune-operator}

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# Prints the comment at the head of the calling script, as its help.
usage() { awk 'NR > 1 && !/^#/ {exit} NR > 1 {sub(/^# ?/, ""); print}' "$0"; }

# The version of the workspace, which is also the tag of its images.
version() { sed -n 's/^version = "\(.*\)"$/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../Cargo.toml" | head -n 1; }

# The local tag of one of our images: image_tag operator|trainer
image_tag() { printf 'localhost/finetune-%s:%s' "$1" "$(version)"; }

# buildah with storage of its own, so that the machine's images stay as they are.
buildah() { command buildah --root "$cache/buildah" --runroot "$cache/buildah-run" "$@"; }

# Builds an image from a prepared context and prints the path of its archive: image_archive TAG CONTAINERFILE CONTEXT
# [OPTION of `buildah bud`...]. The archive's name tells its content, so an image is built only if something changed.
image_archive() {
  local tag=$1 containerfile=$2 context=$3 short started=$SECONDS key archive
  shift 3
  short=$(basename "${tag%%:*}")
  key=$({
    printf '%s\n' "$tag" "$@"
    cat "$containerfile"
    (cd "$context" && find . -type f -printf '%m ' -exec sha256sum {} + | LC_ALL=C sort)
  } | sha256sum | cut -c1-16)
  archive=$cache/images/$short-$key.tar
  mkdir -p "$cache/images"
  exec 8<"$cache/images" && flock 8 # held until the script ends: another tree may be building the same image
  if [ ! -e "$archive" ]; then
    # A fixed timestamp gives unchanged layers the same digest, so that only changed ones are unpacked again.
    # Layers stay uncompressed: the archive is read once, on the machine that wrote it.
    { buildah bud --isolation chroot --layers --timestamp 0 --file "$containerfile" --tag "$tag" "$@" "$context" &&
      rm -f "$archive.partial" &&
      buildah push "$tag" "docker-archive:$archive.partial:$tag"; } >"$archive.log" 2>&1 ||
      { tail -n 20 "$archive.log" >&2; die "cannot build the image $tag: see $archive.log"; }
    find "$cache/images" -name "$short-????????????????.tar*" ! -name "$short-$key.tar.partial" -delete
    mv "$archive.partial" "$archive"
    buildah rmi --prune >/dev/null 2>&1 || say "note: old layers could not be removed from $cache/buildah"
    say "built the image $tag ($(du -h "$archive" | cut -f1)) in $((SECONDS - started)) s"
  fi
  printf '%s\n' "$archive"
}
