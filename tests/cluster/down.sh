#!/usr/bin/env bash
# Takes a cluster down and leaves nothing of it behind but the cache: down.sh
#
# NAME says which (default: dev). Fine on a cluster that is half dead or was never up. Runs as root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ "${1:-}" != --help ] || { usage; exit; }
require_root

control_groups() {
  local hierarchy kind
  while read -r _ hierarchy kind _; do
    [[ $kind != cgroup* ]] || [ ! -d "$hierarchy/$cgroup" ] || printf '%s\n' "$hierarchy/$cgroup"
  done </proc/mounts
}

# Everything the cluster runs: its daemons and containerd's shims, which inherit their environment, and the pods.
processes() {
  local group
  grep -lzxF "FINETUNE_CLUSTER_DAEMON=$state" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3
  for group in $(control_groups); do
    find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null
  done
}

# Repeats while something is left: a shim may start a process while the others are being killed.
kill_processes() {
  local left
  for _ in $(seq 100); do
    left=$(processes | sort -un) || true
    [ -n "$left" ] || return 0
    xargs kill -KILL <<<"$left" 2>/dev/null || true
    sleep 0.1
  done
  die "these processes of the cluster do not die: $(tr '\n' ' ' <<<"$left")"
}

remove_control_groups() {
  local group
  for _ in $(seq 50); do
    for group in $(control_groups); do find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true; done
    [ -n "$(control_groups)" ] || return 0
    sleep 0.1
  done
  die "cannot remove the control groups: $(control_groups | tr '\n' ' ')"
}

kill_processes
remove_control_groups
# Mounts below the state folder are gone with the mount namespace; a client that still runs in it keeps it alive.
rm -rf --one-file-system "$state"
say "the cluster \`$name\` is down"
