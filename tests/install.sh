#!/usr/bin/env bash
# Installs or upgrades the chart on the running test bed, with the images built from this tree.
#   tests/cluster/run.sh tests/install.sh [HELM FLAGS…]
set -euo pipefail
cd "$(dirname "$0")/.."
kubectl get namespace finetune-system >/dev/null 2>&1 || kubectl create namespace finetune-system >/dev/null
kubectl label --overwrite namespace finetune-system pod-security.kubernetes.io/enforce=restricted >/dev/null
# No value names an image: what `make images` makes is what the chart takes. The tag stays the same while the image behind
# it changes: the annotation makes pods of an older one go.
image=$(find "${FINETUNE_CACHE:-$HOME/.cache/finetune-operator}/images" -name 'finetune-operator-*.tar' -printf '%T@ %f\n' | sort -n | tail -1 | cut -d' ' -f2)
helm upgrade --install finetune-operator charts/finetune-operator --namespace finetune-system \
    --set-string "podAnnotations.test-bed/image=$image" \
    --wait --timeout 3m "$@" >/dev/null
