#!/usr/bin/env bash
# Tests of the scripts that people run, with the real tools: scripts.sh [TEST...]
#
# Runs as root, after `make tools images`. A registry listens on the loopback address, at ports that are free.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$(. tests/cluster/lib.sh && tool_path)$PATH"
work=$(mktemp --directory)
started=()
stop() {
  [ "${#started[@]}" = 0 ] || kill -KILL "${started[@]}" 2>/dev/null || true
  rm -rf "$work"
}
trap stop EXIT
fail() { echo "error: $*" >&2; exit 1; }

# The README's way to bring the images to a cluster: push, and install with two repositories.
pushed_images_are_where_the_chart_looks_and_say_their_architecture() {
  local port registry pushed image tag rendered architecture
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  registry=127.0.0.1:$port
  cat >"$work/registry.yaml" <<YAML
version: 0.1
storage: { filesystem: { rootdirectory: $work/registry } }
http: { addr: "$registry" }
YAML
  docker-registry serve "$work/registry.yaml" >"$work/registry.log" 2>&1 &
  started+=($!)
  for _ in $(seq 600); do
    curl --silent --fail "http://$registry/v2/" >/dev/null && break
    sleep 0.2
  done
  pushed=$(TLS_VERIFY=false images/push.sh "$registry/team")
  rendered=$(helm template finetune-operator charts/finetune-operator \
    --set "image.repository=$registry/team/finetune-operator" --set "trainerImage.repository=$registry/team/finetune-trainer")
  for image in operator trainer; do
    tag=$(grep -oE "$registry/team/finetune-$image:[^@]+@sha256:[0-9a-f]{64}" <<<"$pushed") || fail "push.sh did not print finetune-$image with its digest: $pushed"
    grep -qF "${tag%@*}" <<<"$rendered" || fail "the chart does not name ${tag%@*}"
    architecture=$(curl --silent --fail --location "http://$registry/v2/team/finetune-$image/blobs/$(
      curl --silent --fail --header 'Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json' \
        "http://$registry/v2/team/finetune-$image/manifests/${tag##*@}" | jq --raw-output .config.digest)" | jq --raw-output '"\(.os)/\(.architecture)"')
    [ "$architecture" = linux/amd64 ] || fail "finetune-$image says that it is for $architecture, expected linux/amd64"
  done
}

# A chart without values, and the local tags that `make images` makes.
images_of_make_images_are_those_of_the_chart_without_values() {
  local image archive
  for image in operator trainer; do
    archive=$(images/build.sh "$image")
    tar --extract --to-stdout --file "$archive" manifest.json | jq --raw-output '.[].RepoTags[]' >"$work/tags"
    helm template finetune-operator charts/finetune-operator | grep -qF "$(cat "$work/tags")" ||
      fail "the chart without values does not name $(cat "$work/tags")"
  done
}

prometheus_goes_with_its_cluster() {
  local state=$work/clusters/leftover pid
  mkdir -p "$state"
  # In a network of its own: the port is fixed.
  unshare --net -- env FINETUNE_CACHE="$work/cache" FINETUNE_CLUSTER="$state" \
    bash -c 'ip link set lo up && tests/prometheus.sh' >/dev/null
  pid=$(cat "$work/cache/prometheus/pid")
  [ -d "/proc/$pid" ] || fail 'prometheus does not run'
  NAME=leftover FINETUNE_CLUSTER_STATE=$work/clusters tests/cluster/down.sh 2>/dev/null
  # A dead process stays in the list until its parent has looked.
  ! grep -qs . "/proc/$pid/environ" || { started+=("$pid"); fail 'prometheus outlives its cluster'; }
}

tests=(pushed_images_are_where_the_chart_looks_and_say_their_architecture
  images_of_make_images_are_those_of_the_chart_without_values prometheus_goes_with_its_cluster)
[ $# -eq 0 ] || tests=("$@")
for test in "${tests[@]}"; do
  "$test"
  echo "test $test ... ok"
done
