#!/usr/bin/env bash
# Checks that no crate depends on what the architecture keeps away from it, and what deny.toml refuses:
# check-dependencies.sh
#
# The unification of features in a workspace can break the first in silence, so each crate's own tree is read.
# Needs cargo; builds cargo-deny into the cache once ($FINETUNE_CACHE, default: ~/.cache/finetune-operator) unless it
# is installed.
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
keep_away operator libtorch "$libtorch"
keep_away trainer 'Kubernetes client' "$kubernetes_client"

version=0.20.2
deny=$cache/bin/cargo-deny-$version/bin/cargo-deny
if command -v cargo-deny >/dev/null; then
  deny=cargo-deny
elif [ ! -x "$deny" ]; then
  started=$SECONDS
  # It runs for a second, so it is not worth an optimised build.
  CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$cache/bin/cargo-deny-$version.partial \
    cargo install --quiet --locked --debug --no-default-features --version "$version" \
    --root "$cache/bin/cargo-deny-$version" cargo-deny
  rm -rf "$cache/bin/cargo-deny-$version.partial"
  say "built cargo-deny in $((SECONDS - started)) s"
fi
"$deny" --log-level error check --hide-inclusion-graph bans licenses sources
