#!/usr/bin/env bash
# Builds the images of the operator and the trainer, and prints the paths of their archives: build.sh [operator] [trainer]
#
# Tags: localhost/finetune-operator:dev and localhost/finetune-trainer:dev. The binaries come from a release build
# (cargo build --release -p operator, -p trainer). An image is built only if something in it changed.
#   BASE              the base image; by default one is made from this machine's Debian packages, without a registry
#   CARGO_TARGET_DIR  where the binaries are (default: target)
#   FINETUNE_CACHE    where archives and layers are kept (default: ~/.cache/finetune-operator)
# Runs as root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
[ "${1:-}" != --help ] || { usage; exit; }
[ "$(id -u)" = 0 ] || die "build.sh runs as uid $(id -u), expected root: use sudo"
binaries=${CARGO_TARGET_DIR:-$here/../target}/release

# Makes a small base image from this machine's Debian release, because the binaries were linked against its C library.
# Its packages are only unpacked, not configured, which takes seconds; of their configuration it needs one file.
local_base() {
  local suite started=$SECONDS context tag
  # shellcheck source=/dev/null
  suite=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:?}")
  tag=localhost/debian:$suite-$(declare -f local_base | sha256sum | cut -c1-8) # follows the lines below
  if ! buildah inspect --type image "$tag" >/dev/null 2>&1; then
    context=$work/base
    mkdir "$context"
    # shellcheck disable=SC2016 # the hook's $1 is the new root
    SOURCE_DATE_EPOCH=0 mmdebstrap --variant extract \
      --include base-files,libc6,libgcc-s1,libstdc++6,netbase,ca-certificates,dash,coreutils \
      --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
      --dpkgopt='path-exclude=/usr/share/locale/*' \
      --extract-hook='cat "$1"/usr/share/ca-certificates/mozilla/*.crt >"$1/etc/ssl/certs/ca-certificates.crt"' \
      "$suite" "$context/base.tar" >"$context/log" 2>&1 ||
      { tail -n 20 "$context/log" >&2; die "mmdebstrap could not make a base image of Debian $suite: see above"; }
    printf 'FROM scratch\nADD base.tar /\n' >"$context/Containerfile"
    buildah bud --isolation chroot --timestamp 0 --tag "$tag" "$context" >"$context/log" 2>&1 ||
      { tail -n 20 "$context/log" >&2; die "buildah could not make the image $tag: see above"; }
    say "built the base image $tag in $((SECONDS - started)) s"
  fi
  printf '%s' "$tag"
}

build() { # operator|trainer
  local context=$work/$1 binary tag libtorch absent
  [ -x "$binaries/$1" ] || die "$binaries/$1 does not exist: run \`cargo build --release -p $1\`"
  binary=$context/bin/$1
  mkdir -p "$context/bin"
  cp "$binaries/$1" "$binary"
  strip "$binary"
  case $1 in
    operator) tag=localhost/finetune-operator:dev ;;
    trainer)
      tag=localhost/finetune-trainer:dev
      libtorch=$("$here/fetch-libtorch.sh")
      mkdir -p "$context/lib/libtorch"
      ln "$libtorch"/lib/{libtorch_cpu.so,libc10.so,libgomp.so.1,libcudart.so.13,libcupti.so.13} "$context/lib/libtorch/" ;;
  esac
  # As in the image: bin/ and lib/ side by side, and no variable that says where to look.
  absent=$(env -u LD_LIBRARY_PATH ldd "$binary" | awk '/not found/ {print $1}')
  [ -z "$absent" ] || die "$binaries/$1 needs libraries that its image would not have: ${absent//$'\n'/ }"
  image_archive "$tag" "$here/$1.Containerfile" "$context" --build-arg "BASE=$base"
}

[ $# -gt 0 ] || set -- operator trainer
mkdir -p "$cache"
# In the cache, so that libraries can be linked into a context instead of copied.
work=$(mktemp --directory "$cache/context.XXXXXX") && trap 'rm -rf "$work"' EXIT
base=${BASE:-$(local_base)}
for image in "$@"; do
  case $image in
    operator | trainer) build "$image" ;;
    *) die "unknown image \`$image\`, expected operator or trainer" ;;
  esac
done
