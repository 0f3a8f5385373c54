#!/usr/bin/env bash
# Holds the arrows between the crates: the operator never links libtorch, the trainer never links a Kubernetes client, the
# API types know no client, artefacts know neither, and one TLS library serves all. Then cargo-deny reads licences,
# bans and sources.
set -euo pipefail
cd "$(dirname "$0")/.."

# refuse PACKAGE CRATE REASON: fails if PACKAGE depends on CRATE outside its tests.
refuse() {
    if cargo tree --locked --quiet --edges normal --package "$1" --invert "$2" >/dev/null 2>&1 &&
        [ -n "$(cargo tree --locked --quiet --edges normal --package "$1" --prefix none --format '{p}' | awk '{print $1}' | grep -x "$2")" ]; then
        echo "crate $1 depends on $2: $3" >&2
        exit 1
    fi
}

refuse operator tch "the operator never links libtorch"
refuse operator tokenizers "the operator never reads text as tokens"
refuse trainer kube-client "the trainer never links a Kubernetes client"
refuse finetune-crds kube-client "the API types know no client"
refuse finetune-crds tokio "the API types do no I/O"
refuse finetune-artifacts kube-client "artefacts know no Kubernetes"
refuse finetune-artifacts tch "artefacts know no libtorch"
for package in operator trainer finetune-artifacts; do
    refuse "$package" ring "aws-lc-rs is the one TLS library"
    refuse "$package" openssl "aws-lc-rs is the one TLS library"
done

deny="${FINETUNE_CACHE:-$HOME/.cache/finetune-operator}/cargo-deny-0.20.2"
[ -x "$deny/bin/cargo-deny" ] ||
    CARGO_TARGET_DIR="$deny/target" cargo install --quiet --locked --root "$deny" cargo-deny@0.20.2 --no-default-features
rm -rf "$deny/target"
"$deny/bin/cargo-deny" --log-level error check licenses bans sources
