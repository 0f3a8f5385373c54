# shellcheck shell=bash disable=SC2154 # sourced by up.sh, after lib.sh, which sets the variables
# The node: containerd with its pod network and pause image, kubelet, kube-proxy and the cluster's DNS.

start_containerd() {
  mkdir -p "$state"/{containerd,cni}
  cat >"$state/containerd.toml" <<TOML
version = 2
root = "$state/containerd/root"
state = "$state/containerd/state"

[grpc]
  address = "$state/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  # Lowering oom_score_adj may be forbidden where the whole machine is a container.
  restrict_oom_score_adj = true
  disable_apparmor = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$state/cni"
TOML
  cat >"$state/cni/10-$network.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "$network", "plugins": [
  {"type": "ptp", "ipMasq": true, "ipam": {
    "type": "host-local", "ranges": [[{"subnet": "$pod_range"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
JSON
  start containerd containerd --config "$state/containerd.toml"
}

start_kubelet() {
  cat >"$state/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://$state/containerd/containerd.sock
volumePluginDir: $state/volume-plugins
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $state/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $state/pki/kubelet.crt
tlsPrivateKeyFile: $state/pki/kubelet.key
# The disk is the developer's: a full one must not evict pods or collect images that no registry can give back.
evictionHard: {memory.available: 1Mi, nodefs.available: "0%", imagefs.available: "0%"}
imageGCHighThresholdPercent: 100
clusterDNS: [$node_ip]
clusterDomain: cluster.local
resolvConf: $state/resolv.conf
YAML
  start kubelet "$kubernetes/kubelet" --config kubelet.yaml --kubeconfig kubelet.kubeconfig \
    --hostname-override "$node" --node-ip "$node_ip" --root-dir "$state/kubelet"
}

start_proxy() {
  # Zero leaves the connection tracking of the machine as it is.
  start kube-proxy "$kubernetes/kube-proxy" --kubeconfig proxy.kubeconfig --hostname-override "$node" \
    --proxy-mode iptables --cluster-cidr "$cluster_range" --conntrack-max-per-core 0 \
    --conntrack-tcp-timeout-established 0 --conntrack-tcp-timeout-close-wait 0
}

start_dns() {
  cat >"$state/Corefile" <<CONF
cluster.local in-addr.arpa {
  bind $node_ip
  errors
  cache 5
  kubernetes {
    kubeconfig $state/coredns.kubeconfig finetune-$name
  }
}
# Other names do not exist, at once: there is no other network to ask.
. {
  bind $node_ip
  template ANY ANY {
    rcode NXDOMAIN
  }
}
CONF
  start coredns "$(tool_directory coredns)/coredns" -conf "$state/Corefile"
}
