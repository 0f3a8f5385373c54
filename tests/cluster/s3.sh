#!/usr/bin/env bash
# Runs the S3 server in the cluster and makes buckets: s3.sh [BUCKET...]
#
# Prints what clients need, one assignment a line, for `eval` or a file of settings:
#   AWS_ENDPOINT_URL       its address, for pods and for commands run by run.sh
#   AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION
# The key is made anew with each cluster. NAME says which cluster (default: dev). Runs as root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ "${1:-}" != --help ] || { usage; exit; }
require_root
endpoint=http://s3.s3.svc.cluster.local:7070

make_root_key() {
  if [ ! -e "$state/s3.env" ]; then
    (umask 077 && printf 'ROOT_ACCESS_KEY=finetune\nROOT_SECRET_KEY=%s\n' "$(openssl rand -hex 20)" >"$state/s3.env")
  fi
  # shellcheck source=/dev/null
  . "$state/s3.env"
}

is_serving() { inside curl --silent --fail --max-time 2 "$endpoint/healthz"; }

# PUT of a bucket that is there already is answered with 409 to its owner.
make_bucket() {
  local answer
  answer=$(inside curl --silent --show-error --output /dev/null --write-out '%{http_code}' --max-time 10 --request PUT \
    --config - --aws-sigv4 aws:amz:us-east-1:s3 "$endpoint/$1" <<<"user = \"$ROOT_ACCESS_KEY:$ROOT_SECRET_KEY\"")
  case $answer in
    200 | 409) ;;
    *) die "cannot make the bucket \`$1\`: the S3 server answered $answer, expected 200" ;;
  esac
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
printf 'AWS_ENDPOINT_URL=%s\nAWS_ACCESS_KEY_ID=%s\nAWS_SECRET_ACCESS_KEY=%s\nAWS_REGION=us-east-1\n' \
  "$endpoint" "$ROOT_ACCESS_KEY" "$ROOT_SECRET_KEY"
