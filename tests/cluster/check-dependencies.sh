#!/usr/bin/env bash
# Checks that no crate depends on what the architecture keeps away from it, nor on what it does not use, and what deny.toml
# refuses: check-dependencies.sh
#
# The unification of features in a workspace can break the first in silence, so each crate's own tree is read.
# Needs cargo; builds cargo-deny and cargo-machete into the cache once ($FINETUNE_CACHE, default:
# ~/.cache/finetune-operator) unless they are installed.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ "${1:-}" != --help ] || { usage; exit; }
cd "$here/../.."

keep_away() { # package what-is-kept-away pattern
  local tree found
  # Only what is linked: procedural macros and build scripts run on the developer's machine.
  tree=$(cargo tree --locked --package "$1" --edges normal,no-proc-macro --prefix none --format '{p}')
  found=$(cut -d' ' -f1 <<<"$tree" | sort -u | grep -xE "$3") || return 0
  die "the crate \`$1\` depends on $(tr '\n' ' ' <<<"$found"), expected no $2:" \
    "see \`cargo tree --package $1 --invert $(head -n 1 <<<"$found")\`"
}

kubernetes_client='kube-client|kube-runtime'
libtorch='tch|torch-sys'
keep_away finetune-crds 'Kubernetes client or libtorch' "$kubernetes_client|$libtorch|tokio|object_store"
keep_away finetune-artifacts 'Kubernetes client or libtorch' "$kubernetes_client|$libtorch"
keep_away finetune-dataset 'Kubernetes client or libtorch' "$kubernetes_client|$libtorch"
keep_away finetune-numerics 'other crate of ours, Kubernetes client or runtime' "finetune-crds|finetune-artifacts|$kubernetes_client|k8s-openapi|tokio|object_store"
keep_away operator libtorch "$libtorch"
keep_away trainer 'Kubernetes client' "$kubernetes_client"

# Prints the path of a tool of cargo's, built once: cargo_tool NAME VERSION [FLAG of `cargo install`...]
cargo_tool() {
  local name=$1 version=$2 root=$cache/bin/$1-$2 started=$SECONDS
  shift 2
  if command -v "$name"; then return; fi
  if [ ! -x "$root/bin/$name" ]; then
    # It runs for a second, so it is not worth an optimised build.
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$root.partial \
      cargo install --quiet --locked --debug --version "$version" --root "$root" "$@" "$name"
    rm -rf "$root.partial"
    say "built $name in $((SECONDS - started)) s"
  fi
  printf '%s\n' "$root/bin/$name"
}

deny=$(cargo_tool cargo-deny 0.20.2 --no-default-features)
"$deny" --log-level error check --hide-inclusion-graph bans licenses sources

machete=$(cargo_tool cargo-machete 0.9.2)
unused=$("$machete" crds artifacts dataset numerics operator trainer tests 2>/dev/null) ||
  die "a crate names dependencies that it does not use: take them out of its Cargo.toml:" "$(grep -vE '^(cargo-machete|If you believe|$)' <<<"$unused")"
while read -r dependency; do
  grep -qE "^$dependency(\.workspace| = )" ./*/Cargo.toml ||
    die "the workspace's table names \`$dependency\`, which no crate uses: take it out of Cargo.toml"
done < <(sed -n '/^\[workspace.dependencies\]/,/^\[workspace.lints/p' Cargo.toml | grep -oE '^[a-z0-9_-]+ = ' | cut -d' ' -f1)
