#!/usr/bin/env bash
# The example from start to finish on the running test bed: installs the chart, uploads model and data, trains, serves,
# and asks base and adapter the same questions that neither has seen. Leaves the cluster up. `make demo` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${FINETUNE_CACHE:-$HOME/.cache/finetune-operator}"
namespace=demo
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
k() { kubectl --namespace "$namespace" "$@"; }

if [ -z "${FINETUNE_IN_CLUSTER:-}" ]; then
    say "1. Buckets, model and data"
    tests/cluster/s3.sh models data adapters
    tests/cluster/s3-put.sh \
        models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf "$cache/models/SmolLM2-135M-Instruct.Q4_1.gguf" \
        data/support/train.jsonl examples/support/train.jsonl \
        data/support/glossary/train.jsonl examples/support/glossary/train.jsonl
    exec env FINETUNE_IN_CLUSTER=1 tests/cluster/run.sh "$0" "$@"
fi

say "2. Install the chart"
tests/install.sh
helm list --namespace finetune-system
kubectl get namespace "$namespace" >/dev/null 2>&1 || kubectl create namespace "$namespace"
kubectl label --overwrite namespace "$namespace" pod-security.kubernetes.io/enforce=restricted >/dev/null
k apply --filename examples/support/secret.yaml

say "3. Serve the base, and name the adapters that shall join it"
k apply --filename examples/support/inference.yaml --filename examples/support/adapters.yaml

say "4. Prometheus, from Debian, reads the operator, the trainer and the agents"
tests/prometheus.sh

say "5. Fine-tune: kubectl apply, then watch"
k delete finetunejob support --ignore-not-found >/dev/null
k apply --filename examples/support/job.yaml
last=""
while :; do
    line=$(k get finetunejob support --no-headers)
    [ "$line" = "$last" ] || { [ -n "$last" ] || k get finetunejob support | sed -n 1p; echo "$line"; }
    last="$line"
    phase=$(k get finetunejob support --output 'jsonpath={.status.phase}')
    case "$phase" in
        Succeeded) break ;;
        Failed) k get finetunejob support --output 'jsonpath={.status.conditions}' | jq . >&2; exit 1 ;;
        Training) tests/prometheus.sh query finetune_training_loss || true ;;
    esac
    sleep 5
done
k get finetunejob support --output wide

say "6. The adapter is verified, loaded and served; no pod restarts"
k wait adapter/support --for=condition=Ready --timeout=300s
k get adapters --output wide
k get pods

say "7. The same questions to base and adapter, through the Service"
url="http://$(k get service support-model --output 'jsonpath={.spec.clusterIP}')"
examples/support/ask.sh "$url" smollm2 support examples/support/held-out.jsonl 20

say "8. The training loss, as Prometheus has it"
tests/prometheus.sh query 'finetune_training_loss' range

say "What to look at next"
cat <<TXT
  Every kubectl command runs through tests/cluster/run.sh:
    tests/cluster/run.sh kubectl --namespace $namespace describe finetunejob support
    tests/cluster/run.sh kubectl --namespace $namespace apply --filename examples/support/job-glossary.yaml
    tests/cluster/run.sh examples/support/ask.sh $url smollm2 glossary examples/support/glossary/held-out.jsonl
  Stop everything: make cluster-down
TXT
