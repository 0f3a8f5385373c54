#!/usr/bin/env bash
# Brings up a real Kubernetes on this machine: up.sh
#
# One node, in network and mount namespaces of its own, with all state in one folder. Returns in a second if the
# cluster is up already; starts again from nothing if it is half dead or runs older tools. Runs as root.
#   NAME                    which cluster (default: dev); clusters of different names do not touch each other
#   FINETUNE_CACHE          built tools and images (default: ~/.cache/finetune-operator)
#   FINETUNE_CLUSTER_STATE  parent of the state folders (default: $FINETUNE_CACHE/clusters)
# Commands reach it by tests/cluster/run.sh; tests/cluster/down.sh takes it down.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ "${1:-}" != --help ] || { usage; exit; }
. "$here/namespaces.sh"
. "$here/pki.sh"
. "$here/control-plane.sh"
. "$here/node.sh"

require_root
[[ $name =~ ^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$ ]] ||
  die "NAME is \`$name\`, expected at most 20 lower-case letters, digits and inner hyphens"
"$here/build-tools.sh"
kubernetes=$(tool_directory kubernetes)
daemons=(etcd kube-apiserver kube-controller-manager kube-scheduler containerd kubelet kube-proxy coredns)

is_healthy() {
  local daemon
  [ "$(cat "$state/tools" 2>/dev/null)" = "$(tool_path)" ] && [ -n "$(holder)" ] || return 1
  for daemon in "${daemons[@]}"; do is_daemon "$(cat "$state/$daemon.pid" 2>/dev/null)" || return 1; done
  is_api_ready && is_node_ready
}
is_api_ready() { kubectl get --raw /readyz; }
is_node_ready() { kubectl wait --for condition=Ready "node/$node" --timeout 1s; }
has_default_service_account() { kubectl get serviceaccount default --namespace default; }

mkdir -p "$(dirname "$state")"
exec 9<"$(dirname "$state")" && flock 9
if is_healthy >/dev/null 2>&1; then
  say "the cluster \`$name\` is up"
  exit
fi
started=$SECONDS
[ ! -e "$state" ] || "$here/down.sh"
pause_image=$("$here/image.sh" pause)

mkdir -p "$state"
chmod 700 "$state"
tool_path >"$state/tools"
printf 'nameserver %s\n' "$node_ip" >"$state/resolv.conf"
create_namespaces
create_network
create_control_group
create_pki
start_api_server
start_containerd
wait_for 20 containerd ctr version
ctr images import "$pause_image" >/dev/null
wait_for 60 'the API server' is_api_ready
start_controllers
start_kubelet
start_proxy
start_dns
wait_for 60 "the node to be ready" is_node_ready
# Admission refuses pods until it is there.
wait_for 20 'the default ServiceAccount' has_default_service_account
say "the cluster \`$name\` is up after $((SECONDS - started)) s; run commands in it with: tests/cluster/run.sh kubectl get nodes"
