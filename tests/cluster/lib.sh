# shellcheck shell=bash disable=SC2034 # sourced: the variables are for the scripts that source it
# What all scripts of the test cluster share: names, addresses, paths, and how to run something inside the cluster.
# It must never do anything by being sourced.

name=${NAME:-dev}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${FINETUNE_CACHE:-$HOME/.cache/finetune-operator}
state=${FINETUNE_CLUSTER_STATE:-$cache/clusters}/$name
log=$state/log
cgroup=finetune-$name # the cluster's own control group, below the root of every hierarchy
network=finetune-$name # the name of its CNI network
kubeconfig=$state/admin.kubeconfig

# The addresses may be the same in every cluster: each lives in a network namespace of its own.
node_ip=172.31.250.1
service_range=10.96.0.0/16
api_service_ip=10.96.0.1
cluster_range=10.244.0.0/16
pod_range=10.244.0.0/24
node=node1

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# Prints the comment at the head of the calling script, as its help.
usage() { awk 'NR > 1 && !/^#/ {exit} NR > 1 {sub(/^# ?/, ""); print}' "$0"; }

require_root() { [ "$(id -u)" = 0 ] || die "$(basename "$0") runs as uid $(id -u), expected root: use sudo"; }

tool_sets=(kubernetes etcd coredns helm versitygw)
# Without debug information the compiler has less to do.
go_flags=(-trimpath -buildvcs=false -gcflags=all=-dwarf=false)

# The folder with the built tools of one set. Its name changes with the versions, sources and flags they are built from.
tool_directory() { # set
  local versions=("$here/tools/$1"/*)
  [ "$(workspace "$1")" = off ] || versions+=("$here"/tools/go.work*)
  printf '%s/bin/%s-%s' "$cache" "$1" "$(cat - "${versions[@]}" <<<"${go_flags[*]}" | sha256sum | cut -c1-12)"
}

# The file whose versions a set shares with others, or `off`.
workspace() { # set
  if grep -qxF $'\t'"./$1" "$here/tools/go.work"; then printf '%s/tools/go.work' "$here"; else printf off; fi
}

tool_path() {
  local set path=
  for set in "${tool_sets[@]}"; do path+=$(tool_directory "$set"):; done
  printf '%s' "$path"
}

# The process that holds the cluster's namespaces open, if it is alive.
holder() {
  local pid
  pid=$(cat "$state/holder.pid" 2>/dev/null) && is_daemon "$pid" && printf '%s' "$pid"
}

# Whether the process is one of this cluster's daemons. Process ids are used again, so the environment decides.
is_daemon() { grep -qzxF "FINETUNE_CLUSTER_DAEMON=$state" "/proc/$1/environ" 2>/dev/null; }

require_cluster() { [ -n "$(holder)" ] || die "the cluster \`$name\` is not up: run tests/cluster/up.sh"; }

# Runs a command in the cluster's network and mount namespaces, in the same working directory.
inside() {
  require_cluster
  nsenter --target "$(holder)" --net --mount -- env -C "$PWD" "$@"
}

kubectl() {
  inside "$(tool_directory kubernetes)/kubectl" --kubeconfig "$kubeconfig" --cache-dir "$state/kubectl-cache" "$@"
}
ctr() { inside ctr --address "$state/containerd/containerd.sock" --namespace k8s.io "$@"; }

# Waits for a command to succeed: wait_for SECONDS WHAT COMMAND...
wait_for() {
  local limit=$1 what=$2 deadline=$((SECONDS + $1))
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || die "waited $limit s for $what in vain: see the logs in $log"
    sleep 0.2
  done
}
