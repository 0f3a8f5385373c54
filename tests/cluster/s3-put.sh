#!/usr/bin/env bash
# Puts files into the cluster's S3 server: s3-put.sh BUCKET/KEY FILE [BUCKET/KEY FILE...]
#
# The bucket must be there (s3.sh makes it). NAME says which cluster (default: dev). Runs as root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ $# -gt 0 ] && [ "$1" != --help ] || { usage; exit; }
. "$here/s3-client.sh"
require_root
require_cluster

while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || die "\`$1\` has no file, expected pairs of BUCKET/KEY and FILE"
  [ -r "$2" ] || die "cannot read the file $2"
  answer=$(s3_put "$1" "$2")
  [ "$answer" = 200 ] || die "cannot put $2 at \`$1\`: the S3 server answered $answer, expected 200"
  shift 2
done
