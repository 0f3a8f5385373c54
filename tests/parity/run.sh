#!/usr/bin/env bash
# Compares with the reference stack, live: makes the fixtures again and shows that nothing changed, then trains adapters
# on tiny models with our trainer, loads them in transformers + peft, and reads again what peft writes. Needs target/release/trainer.
#   PARITY_VENV   an environment with tests/parity/requirements.txt; by default one is made in the cache (5 GB)
set -euo pipefail
cd "$(dirname "$0")/../.."
cache="${FINETUNE_CACHE:-$HOME/.cache/finetune-operator}"
environment="${PARITY_VENV:-$cache/parity-$(sha256sum tests/parity/requirements.txt | cut -c1-12)}"
if [ ! -x "$environment/bin/python" ]; then
    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet --requirement tests/parity/requirements.txt || { rm -rf "$environment"; exit 1; }
fi
export FINETUNE_SMOLLM2_GGUF="${FINETUNE_MODEL:-$cache/models/SmolLM2-135M-Instruct.Q4_1.gguf}"
# The reference links its own libtorch.
reference() { env -u LD_LIBRARY_PATH "$environment/bin/python" "$@"; }

reference tests/parity/make_fixtures.py --check

reference tests/parity/published_templates.py target/release/trainer trainer/tests/fixtures/tiny-llama

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fixtures="$PWD/trainer/tests/fixtures"
for row in $(seq 32); do printf '{"prompt": "question %d ", "completion": "answer %d"}\n' "$row" $((row % 7)); done >"$work/train.jsonl"
loss_of() { # ADAPTER: the loss of the training rows under it, by our trainer
    rm -rf "$work/evaluation"
    target/release/trainer evaluate --file "$work/job.yaml" --work "$work/evaluation" --cache "$work/cache" --adapter "file://$1/" >&2
    sed -E 's/.*"loss": *([0-9.e-]+).*/\1/' <(tr -d '\n' <"$work/evaluation/evaluation.json")
}
# Base and further settings: written here, loaded in peft, and what peft writes then read here again.
while IFS='|' read -r base settings; do
    cat >"$work/job.yaml" <<YAML
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: { name: parity }
spec:
  baseModel: { uri: "file://$fixtures/$base" }
  dataset: { train: [ { uri: "file://$work/train.jsonl" } ] }
  method: { lora: { rank: 4, alpha: 8$settings } }
  training: { maxSteps: 8, batchSize: 8, learningRate: 0.01, computeType: Float32 }
YAML
    rm -rf "$work/run" "$work/peft"
    target/release/trainer train --file "$work/job.yaml" --work "$work/run" --cache "$work/cache"
    adapter=$(echo "$work"/run/output/default/parity/sha256-*)
    reference tests/parity/check_peft_load.py "$adapter" "$fixtures/$base" --save "$work/peft"
    awk -v ours="$(loss_of "$adapter")" -v theirs="$(loss_of "$work/peft")" 'BEGIN {
        off = theirs / ours - 1; if (off < 0) off = -off
        printf "loss %s, of the adapter as peft writes it %s\n", ours, theirs
        if (!(ours > 0 && off <= 1e-5)) exit 1
    }'
done <<'CASES'
tiny-llama/|
tiny-llama/|, rankPattern: { q_proj: 8, layers.1.mlp.*: 2 }, alphaPattern: { up_proj: 5 }, useRslora: true, useDora: true, dropout: 0.1
tiny-llama-bias/|, useDora: true
families/phi3/|, targetModules: [all-linear]
families/gemma3/|
gguf/mixed.gguf|
CASES
