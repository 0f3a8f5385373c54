# shellcheck shell=bash disable=SC2154 # sourced by up.sh, after lib.sh, which sets the variables
# etcd, the API server, the controller manager and the scheduler.

start_api_server() {
  # Nothing in etcd is worth an fsync: the cluster starts empty each time.
  start etcd "$(tool_directory etcd)/etcd" --data-dir "$state/etcd" --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
  # The audit log is there to count writes and to find what a component's RBAC must allow.
  cat >"$state/audit-policy.yaml" <<'YAML'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
YAML
  start kube-apiserver "$kubernetes/kube-apiserver" \
    --etcd-servers http://127.0.0.1:2379 \
    --bind-address "$node_ip" --advertise-address "$node_ip" \
    --service-cluster-ip-range "$service_range" \
    --tls-cert-file pki/api-server.crt --tls-private-key-file pki/api-server.key \
    --client-ca-file pki/ca.crt \
    --service-account-issuer https://kubernetes.default.svc \
    --service-account-key-file pki/service-account.pub --service-account-signing-key-file pki/service-account.key \
    --authorization-mode Node,RBAC \
    --enable-admission-plugins NodeRestriction,PodSecurity,ValidatingAdmissionPolicy \
    --allow-privileged \
    --kubelet-preferred-address-types InternalIP \
    --kubelet-client-certificate pki/admin.crt --kubelet-client-key pki/admin.key \
    --audit-policy-file audit-policy.yaml --audit-log-path "$log/audit.log"
}

# They exit without an API server, so this comes after it is ready.
start_controllers() {
  start kube-controller-manager "$kubernetes/kube-controller-manager" \
    --kubeconfig controller-manager.kubeconfig --leader-elect=false \
    --controllers '*' --use-service-account-credentials \
    --service-account-private-key-file pki/service-account.key --root-ca-file pki/ca.crt \
    --cluster-signing-cert-file pki/ca.crt --cluster-signing-key-file pki/ca.key \
    --allocate-node-cidrs --cluster-cidr "$cluster_range"
  start kube-scheduler "$kubernetes/kube-scheduler" --kubeconfig scheduler.kubeconfig --leader-elect=false
}
