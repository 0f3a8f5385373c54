#!/usr/bin/env bash
# Compares with the reference stack, live: makes the fixtures again and shows that nothing changed, then trains an adapter
# on the tiny model with our trainer and loads it in transformers + peft. Needs target/release/trainer.
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

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
base="$PWD/trainer/tests/fixtures/tiny-llama"
for row in $(seq 32); do printf '{"prompt": "question %d ", "completion": "answer %d"}\n' "$row" $((row % 7)); done >"$work/train.jsonl"
cat >"$work/job.yaml" <<YAML
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: { name: parity }
spec:
  baseModel: { uri: "file://$base/" }
  dataset: { train: [ { uri: "file://$work/train.jsonl" } ] }
  method: { lora: { rank: 4, alpha: 8 } }
  training: { maxSteps: 8, batchSize: 8, learningRate: 0.01, computeType: Float32 }
YAML
for settings in '' ', rankPattern: { q_proj: 8, layers.1.mlp.*: 2 }, alphaPattern: { up_proj: 5 }, useRslora: true, useDora: true, dropout: 0.1'; do
    sed "s/alpha: 8/&$settings/" "$work/job.yaml" >"$work/next.yaml"
    rm -rf "$work/run"
    target/release/trainer train --file "$work/next.yaml" --work "$work/run" --cache "$work/cache"
    reference tests/parity/check_peft_load.py "$work"/run/output/default/parity/sha256-*/ "$base"
done
