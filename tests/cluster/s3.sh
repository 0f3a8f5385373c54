#!/usr/bin/env bash
# Runs the S3 server in the cluster and makes buckets: s3.sh [BUCKET...]
#
# Prints what clients need, one assignment a line, for `eval` or a file of settings:
#   AWS_ENDPOINT_URL       its address, for pods and for commands run by run.sh
#   AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION
# The key is that of examples/support/secret.yaml: the server is reached from inside this cluster's network only. NAME says which cluster (default: dev). Runs as root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ "${1:-}" != --help ] || { usage; exit; }
require_root
require_cluster
. "$here/s3-client.sh"

make_root_key() {
  [ -e "$state/s3.env" ] ||
    (umask 077 && printf 'ROOT_ACCESS_KEY=finetune-demo\nROOT_SECRET_KEY=finetune-demo-only\n' >"$state/s3.env")
}

is_serving() { inside curl --silent --fail --max-time 2 "$endpoint/healthz"; }

make_bucket() {
  local answer
  answer=$(s3_put "$1")
  # 409: it is there already.
  [ "$answer" = 200 ] || [ "$answer" = 409 ] ||
    die "cannot make the bucket \`$1\`: the S3 server answered $answer, expected 200"
}

make_root_key
archive=$("$here/image.sh" versitygw)
"$here/load-images.sh" "$archive"
kubectl apply --filename "$here/s3.yaml" >/dev/null
kubectl create secret generic root --namespace s3 --from-env-file "$state/s3.env" --dry-run=client --output yaml |
  kubectl apply --filename - >/dev/null
kubectl rollout status deployment/s3 --namespace s3 --timeout 60s >/dev/null ||
  die "the S3 server does not start: see tests/cluster/run.sh kubectl describe pods --namespace s3"
wait_for 20 "the S3 server" is_serving
for bucket in "$@"; do make_bucket "$bucket"; done
# shellcheck source=/dev/null
. "$state/s3.env"
printf 'AWS_ENDPOINT_URL=%s\nAWS_ACCESS_KEY_ID=%s\nAWS_SECRET_ACCESS_KEY=%s\nAWS_REGION=us-east-1\n' \
  "$endpoint" "$ROOT_ACCESS_KEY" "$ROOT_SECRET_KEY"
