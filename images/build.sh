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

# Makes a base image like debian:SUITE-slim, with certificate authorities. The suite is this machine's, because the
# binaries were linked against its C library.
local_base() {
  local suite started=$SECONDS context tag
  # shellcheck source=/dev/null
  suite=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:?}")
  tag=localhost/debian:$suite-slim
  if ! buildah inspect --type image "$tag" >/dev/null 2>&1; then
    context=$(mktemp --directory)
    SOURCE_DATE_EPOCH=0 mmdebstrap --quiet --variant essential --include ca-certificates,libstdc++6,netbase \
      --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
      --dpkgopt='path-exclude=/usr/share/locale/*' "$suite" "$context/base.tar" >&2
    printf 'FROM scratch\nADD base.tar /\n' >"$context/Containerfile"
    buildah bud --isolation chroot --timestamp 0 --tag "$tag" "$context" >/dev/null 2>&1
    rm -rf "$context"
    say "built the base image $tag in $((SECONDS - started)) s"
  fi
  printf '%s' "$tag"
}

build() { # operator|trainer
  local context
  [ -x "$binaries/$1" ] || die "$binaries/$1 does not exist: run \`cargo build --release -p $1\`"
  mkdir -p "$cache"
  context=$(mktemp --directory "$cache/context.XXXXXX")
  cp "$binaries/$1" "$context/"
  strip "$context/$1"
  case $1 in
    operator) tag=localhost/finetune-operator:dev ;;
    trainer)
      tag=localhost/finetune-trainer:dev
      libtorch=$("$here/fetch-libtorch.sh")
      mkdir "$context/lib"
      ln "$libtorch"/lib/{libtorch_cpu.so,libc10.so,libgomp.so.1,libcudart.so.13,libcupti.so.13} "$context/lib/" ;;
  esac
  image_archive "$tag" "$here/$1.Containerfile" "$context" --build-arg "BASE=$base"
  rm -rf "$context"
}

[ $# -gt 0 ] || set -- operator trainer
base=${BASE:-$(local_base)}
for image in "$@"; do
  case $image in
    operator | trainer) build "$image" ;;
    *) die "unknown image \`$image\`, expected operator or trainer" ;;
  esac
done
