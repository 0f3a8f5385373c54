#!/usr/bin/env bash
# Runs the tests of Google Cloud Storage and Azure Blob Storage against emulators that others keep: azurite (by npx) and
# fake-gcs-server (by go run), at the versions below. Fetches them from their registries, so it is no part of `make test`.
#
# Needs node 20 or newer, Go, curl and openssl.
set -euo pipefail
cd "$(dirname "$0")/../.."

azurite=azurite@3.37.0
fake_gcs_server=github.com/fsouza/fake-gcs-server@v1.56.1
bucket=models

state=$(mktemp -d)
cleanup() {
  for pid in $(cat "$state"/*.pid 2>/dev/null); do
    # Its group: npx and go run start the server as a child.
    kill -- "-$pid" 2>/dev/null || true
  done
  rm -rf "$state"
}
trap cleanup EXIT

free_port() {
  node -e 'require("net").createServer().listen(0, "127.0.0.1", function () { console.log(this.address().port); this.close(); })'
}

start() { # NAME COMMAND...
  local name=$1
  shift
  setsid "$@" >"$state/$name.log" 2>&1 </dev/null &
  echo $! >"$state/$name.pid"
}

wait_for() { # NAME URL
  local name=$1 url=$2
  # The first start compiles or downloads.
  for _ in $(seq 600); do
    if curl --silent --output "$state/answer" "$url"; then return; fi
    if ! kill -0 "$(cat "$state/$name.pid")" 2>/dev/null; then break; fi
    sleep 1
  done
  echo "$name does not answer at $url; its log:" >&2
  cat "$state/$name.log" >&2
  exit 1
}

create_container() { # ENDPOINT ACCOUNT KEY CONTAINER
  local date resource text signature
  date=$(LC_ALL=C date --utc '+%a, %d %b %Y %H:%M:%S GMT')
  # The account stands twice: the emulator has it in its paths, too.
  resource="/$2/$2/$4\nrestype:container"
  text="PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:$date\nx-ms-version:2021-12-02\n$resource"
  signature=$(printf '%b' "$text" |
    openssl dgst -sha256 -mac HMAC -macopt "hexkey:$(base64 --decode <<<"$3" | od -An -v -tx1 | tr -d ' \n')" -binary |
    base64 --wrap 0)
  curl --silent --show-error --fail-with-body --request PUT --header "x-ms-date: $date" \
    --header 'x-ms-version: 2021-12-02' --header 'Content-Length: 0' \
    --header "Authorization: SharedKey $2:$signature" "$1/$4?restype=container"
}

azure_port=$(free_port)
google_port=$(free_port)
export AZURE_STORAGE_ACCOUNT_NAME=team
AZURE_STORAGE_ACCOUNT_KEY=$(head -c 32 /dev/urandom | base64 --wrap 0)
export AZURE_STORAGE_ACCOUNT_KEY AZURE_ALLOW_HTTP=true
export AZURE_STORAGE_ENDPOINT=http://127.0.0.1:$azure_port/$AZURE_STORAGE_ACCOUNT_NAME
export GOOGLE_BASE_URL=http://127.0.0.1:$google_port GOOGLE_ALLOW_HTTP=true GOOGLE_BEARER_TOKEN=any

AZURITE_ACCOUNTS="$AZURE_STORAGE_ACCOUNT_NAME:$AZURE_STORAGE_ACCOUNT_KEY" \
  start azurite npx --yes --package "$azurite" azurite-blob --silent --inMemoryPersistence \
  --blobHost 127.0.0.1 --blobPort "$azure_port" --disableTelemetry
start fake-gcs-server go run "$fake_gcs_server" -scheme http -host 127.0.0.1 -port "$google_port" \
  -public-host "127.0.0.1:$google_port" -backend memory -log-level error
wait_for azurite "http://127.0.0.1:$azure_port/"
wait_for fake-gcs-server "$GOOGLE_BASE_URL/_internal/healthcheck"
create_container "$AZURE_STORAGE_ENDPOINT" "$AZURE_STORAGE_ACCOUNT_NAME" "$AZURE_STORAGE_ACCOUNT_KEY" "$bucket"
curl --silent --show-error --fail-with-body --output "$state/answer" --header 'Content-Type: application/json' \
  --data "{\"name\": \"$bucket\"}" "$GOOGLE_BASE_URL/storage/v1/b"

cargo test --release --locked --workspace --exclude system-tests --test stores -- --ignored emulators::
