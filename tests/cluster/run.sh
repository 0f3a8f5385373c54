#!/usr/bin/env bash
# Runs a command in the cluster's network: run.sh COMMAND [ARGUMENT...]
#
# The command has the built tools (kubectl, helm, etcd …) on its PATH, an administrator's KUBECONFIG, and resolves the
# names of Services (http://s3.s3.svc.cluster.local:7070). It keeps its working directory, and sees the machine's
# files, but for /run, /var/log and what the cluster adds to /var/lib. NAME says which cluster (default: dev). A process
# that stays behind goes with the cluster if its environment has FINETUNE_CLUSTER_DAEMON="$FINETUNE_CLUSTER".
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ $# -gt 0 ] && [ "$1" != --help ] || { usage; exit; }
require_root
require_cluster
exec nsenter --target "$(holder)" --net --mount -- env -C "$PWD" \
  FINETUNE_CLUSTER="$state" KUBECONFIG="$kubeconfig" KUBECACHEDIR="$state/kubectl-cache" \
  HELM_CACHE_HOME="$state/helm/cache" HELM_CONFIG_HOME="$state/helm/config" HELM_DATA_HOME="$state/helm/data" \
  PATH="$(tool_path)$PATH" "$@"
