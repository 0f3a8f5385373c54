# shellcheck shell=bash disable=SC2154 # sourced after lib.sh, which sets the variables
# A client of the cluster's S3 server, as far as the cluster's own scripts need one.

endpoint=http://s3.s3.svc.cluster.local:7070

# Puts a file, or nothing (which makes a bucket), and prints the HTTP status: s3_put BUCKET[/KEY] [FILE]
s3_put() {
  local file=${2:-/dev/null} ROOT_ACCESS_KEY ROOT_SECRET_KEY
  # shellcheck source=/dev/null
  . "$state/s3.env" 2>/dev/null || die "the S3 server was not started: run tests/cluster/s3.sh"
  # The key goes by standard input: arguments can be read by every process. Debian's curl leaves the digest to its caller.
  inside curl --silent --show-error --output /dev/null --write-out '%{http_code}' --config - \
    --header "x-amz-content-sha256: $(sha256sum <"$file" | cut -d' ' -f1)" --header Expect: \
    --aws-sigv4 aws:amz:us-east-1:s3 --upload-file "$file" "$endpoint/$1" \
    <<<"user = \"$ROOT_ACCESS_KEY:$ROOT_SECRET_KEY\""
}
