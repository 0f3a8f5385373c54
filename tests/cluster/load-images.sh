#!/usr/bin/env bash
# Puts image archives into the cluster's containerd: load-images.sh [ARCHIVE...]
#
# Default: the operator's and the trainer's, which images/build.sh builds if they changed. An archive that is loaded
# already costs nothing. Pods use the images by tag (localhost/finetune-operator:VERSION), with imagePullPolicy IfNotPresent
# or Never. NAME says which cluster (default: dev). Runs as root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ "${1:-}" != --help ] || { usage; exit; }
require_root
require_cluster

if [ $# -eq 0 ]; then
  archives=$("$here/../../images/build.sh")
  mapfile -t archives <<<"$archives"
  set -- "${archives[@]}"
fi
mkdir -p "$state/loaded"
for archive in "$@"; do
  [ -r "$archive" ] || die "cannot read the image archive $archive"
  # The archive's name tells its content, and an older one of the same image is no longer what its tag points to.
  loaded=$state/loaded/$(basename "$archive" | sed 's/-[0-9a-f]*\.tar$//')
  [ "$(cat "$loaded" 2>/dev/null)" != "$archive" ] || continue
  started=$SECONDS
  ctr images import "$archive" >/dev/null
  printf '%s' "$archive" >"$loaded"
  say "loaded $(basename "$archive") in $((SECONDS - started)) s"
done
