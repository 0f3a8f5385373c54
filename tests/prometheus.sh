#!/usr/bin/env bash
# A real Prometheus beside the test bed, which goes with the cluster. Runs inside the cluster's network namespace
# (tests/cluster/run.sh).
#   tests/prometheus.sh                          starts it, if it does not run
#   tests/prometheus.sh query EXPRESSION         prints the present values
#   tests/prometheus.sh query EXPRESSION range   prints first and last value of the last hour
set -euo pipefail
cd "$(dirname "$0")/.."
state="${FINETUNE_CACHE:-$HOME/.cache/finetune-operator}/prometheus"
url=http://127.0.0.1:9090

start() {
    curl --silent --fail "$url/-/ready" >/dev/null 2>&1 && return
    rm -rf "$state" && mkdir -p "$state"
    sed "s#STATE#$state#" tests/prometheus.yaml >"$state/prometheus.yaml"
    : "${FINETUNE_CLUSTER:?is not set: run it through tests/cluster/run.sh}"
    # By this mark `make cluster-down` finds what it has to stop.
    export FINETUNE_CLUSTER_DAEMON="$FINETUNE_CLUSTER"
    setsid "$PWD/tests/prometheus.sh" targets >/dev/null 2>&1 </dev/null &
    setsid prometheus --config.file="$state/prometheus.yaml" --storage.tsdb.path="$state/data" \
        --web.listen-address=127.0.0.1:9090 >"$state/log" 2>&1 </dev/null &
    echo $! >"$state/pid"
    for _ in $(seq 60); do
        curl --silent --fail "$url/-/ready" >/dev/null 2>&1 && { echo "prometheus answers on $url inside the cluster's network"; return; }
        sleep 0.5
    done
    echo "prometheus did not start; see $state/log" >&2
    exit 1
}

# Lists the running pods with a port of ours, every two seconds, until the cluster is gone.
targets() {
    while kubectl get pods --all-namespaces --field-selector status.phase=Running --output json >"$state/pods.json"; do
        jq '[.items[] | . as $pod
            | ([(.spec.initContainers // [])[], .spec.containers[]] | .[] | (.ports // [])[]
               | select(.containerPort == 8480 or .containerPort == 8482 or .containerPort == 8483))
            | {targets: ["\($pod.status.podIP):\(.containerPort)"],
               labels: {namespace: $pod.metadata.namespace, pod: $pod.metadata.name}}]' \
            "$state/pods.json" >"$state/targets.new"
        mv "$state/targets.new" "$state/targets.json"
        sleep 2
    done
}

case "${1:-start}" in
    targets) targets ;;
    start) start ;;
    query)
        if [ "${3:-}" = range ]; then
            curl --silent --fail --get "$url/api/v1/query_range" --data-urlencode "query=$2" --data "step=5" \
                --data "start=$(date --date='1 hour ago' +%s)" --data "end=$(date +%s)" |
                jq --raw-output '.data.result[] | .values |= map(select(.[1] != "NaN")) | select(.values != []) | "\(.metric.__name__) in pod \(.metric.pod): \(.values | length) samples, first \(.values[0][1]), last \(.values[-1][1])"'
        else
            curl --silent --fail --get "$url/api/v1/query" --data-urlencode "query=$2" |
                jq --raw-output '.data.result[] | "    prometheus: \(.metric.__name__) = \(.value[1])"'
        fi
        ;;
    *) sed -n '2,7p' "$0" >&2; exit 2 ;;
esac
