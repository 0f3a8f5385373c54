# shellcheck shell=bash disable=SC2154 # sourced by up.sh, after lib.sh, which sets the variables
# The namespaces and the control group that hold the whole cluster, and how a daemon is started in them.
#
# A mount namespace is shared by all daemons of the cluster (the kubelet's mounts must be visible to containerd). It
# keeps what they write to fixed places (/run, /var/log, /var/lib) away from the machine and from other clusters, and
# ends with the last process, so there is nothing to unmount afterwards.

create_namespaces() {
  mkdir -p "$state"/{run,var-lib,var-lib-work,sysctl} "$log"
  (
    close_inherited_files
    exec env FINETUNE_CLUSTER_DAEMON="$state" setsid unshare --net --mount --propagation slave sleep infinity
  ) >"$log/holder.log" 2>&1 </dev/null &
  printf '%s' "$!" >"$state/holder.pid"
  wait_for 5 "the cluster's namespaces" grep -qx sleep "/proc/$!/comm"
  inside bash -euc "$(declare -f mount_private_folders); mount_private_folders '$state'"
}

# Runs inside the mount namespace.
mount_private_folders() { # state
  local setting resolver
  # The kubelet tunes these for the whole machine, and refuses to start if it cannot: here it tunes copies.
  for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    [ -e "/proc/sys/$setting" ] || continue
    cat "/proc/sys/$setting" >"$1/sysctl/${setting//\//.}"
    mount --bind "$1/sysctl/${setting//\//.}" "/proc/sys/$setting"
  done
  mount -t overlay -o "lowerdir=/var/lib,upperdir=$1/var-lib,workdir=$1/var-lib-work" overlay /var/lib
  mount --bind "$1/log" /var/log
  mount --bind "$1/run" /run
  # Clients in the cluster resolve the names of its Services. The file may be a link into the /run just hidden.
  resolver=$(readlink -m /etc/resolv.conf)
  mkdir -p "$(dirname "$resolver")"
  [ -e "$resolver" ] || touch "$resolver"
  mount --bind "$1/resolv.conf" "$resolver"
}

# Starts a daemon: start NAME COMMAND...; its output goes to the log folder.
start() {
  local daemon=$1
  shift
  (
    close_inherited_files
    exec env FINETUNE_CLUSTER_DAEMON="$state" setsid nsenter --target "$(holder)" --net --mount -- env -C "$state" "$@"
  ) >"$log/$daemon.log" 2>&1 </dev/null &
  printf '%s' "$!" >"$state/$daemon.pid"
}

# A daemon must not keep a caller's lock or pipe open for as long as it lives.
close_inherited_files() {
  local file
  for file in /proc/self/fd/*; do
    file=${file##*/}
    [ "$file" -le 2 ] || eval "exec $file>&-"
  done
}

create_network() {
  inside ip link set lo up
  # A bridge without ports carries the node's address: a dummy device is not available on every kernel.
  inside ip link add node0 type bridge
  inside ip address add "$node_ip/32" dev node0
  inside ip link set node0 up
  # Without a route the API server could not reach webhooks by ClusterIP.
  inside ip route add "$service_range" dev node0
  inside sysctl --quiet --write net.ipv4.ip_forward=1
}

# Creates the cluster's control group in every hierarchy, of version 1 and of version 2.
create_control_group() {
  local kind hierarchy controllers file
  while read -r _ hierarchy kind _; do
    case $kind in
      cgroup)
        mkdir -p "$hierarchy/$cgroup"
        # A new group of the cpuset hierarchy is unusable until it has CPUs and memory nodes.
        for file in cpuset.cpus cpuset.mems; do
          [ ! -e "$hierarchy/$file" ] || cat "$hierarchy/$file" >"$hierarchy/$cgroup/$file"
        done ;;
      cgroup2)
        [ "$hierarchy" = /sys/fs/cgroup ] || continue # a hybrid's second tree: the controllers are in version 1
        controllers=$(sed 's/[^ ]*/+&/g' "$hierarchy/cgroup.controllers")
        echo "$controllers" >"$hierarchy/cgroup.subtree_control" ||
          die "cannot pass the controllers $controllers on to new control groups: expected a root control group" \
            "without processes of its own, as on a machine booted by systemd"
        mkdir -p "$hierarchy/$cgroup"
        echo "$controllers" >"$hierarchy/$cgroup/cgroup.subtree_control" ;;
    esac
  done </proc/mounts
}
