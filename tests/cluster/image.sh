#!/usr/bin/env bash
# Builds an image that only the test cluster needs, and prints the path of its archive: image.sh pause|versitygw
#
# Tags: localhost/pause:1, localhost/versitygw:dev. Built only if something in it changed. Runs as root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ "${1:-}" != --help ] || { usage; exit; }
require_root
. "$here/../../images/lib.sh"

mkdir -p "$cache"
context=$(mktemp --directory "$cache/context.XXXXXX") && trap 'rm -rf "$context"' EXIT
case ${1:-} in
  pause)
    tag=localhost/pause:1
    gcc -Os -static -s -o "$context/pause" "$here/images/pause.c" ;;
  versitygw)
    tag=localhost/versitygw:dev
    "$here/build-tools.sh" versitygw
    ln "$(tool_directory versitygw)/versitygw" "$context/" ;;
  *) die "unknown image \`${1:-}\`, expected pause or versitygw" ;;
esac
image_archive "$tag" "$here/images/$1.Containerfile" "$context"
