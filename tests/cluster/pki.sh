# shellcheck shell=bash disable=SC2154 # sourced by up.sh, after lib.sh, which sets the variables
# The cluster's certificate authority, one certificate and kubeconfig per component, and the key of service accounts.

create_pki() {
  mkdir -p "$state/pki"
  chmod 700 "$state/pki"
  ( # subshell: the working directory
    cd "$state/pki"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj "/CN=$name-ca" \
      -keyout ca.key -out ca.crt
    openssl ecparam -genkey -name prime256v1 -noout -out service-account.key
    openssl ec -in service-account.key -pubout -out service-account.pub
    certificate api-server /CN=kube-apiserver "$(printf 'DNS:%s,' kubernetes{,.default{,.svc{,.cluster.local}}} localhost
      )IP:127.0.0.1,IP:$node_ip,IP:$api_service_ip"
    certificate kubelet "/O=system:nodes/CN=system:node:$node" "DNS:$node,IP:$node_ip"
    certificate admin /O=system:masters/CN=admin
    certificate coredns /O=system:masters/CN=coredns
    certificate controller-manager /CN=system:kube-controller-manager
    certificate scheduler /CN=system:kube-scheduler
    certificate proxy /CN=system:kube-proxy
  ) >"$log/pki.log" 2>&1 || die "openssl failed: see $log/pki.log"
  local user
  for user in kubelet admin coredns controller-manager scheduler proxy; do write_kubeconfig "$user"; done
}

certificate() { # name subject [subjectAltName]
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$2" -keyout "$1.key" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out "$1.crt" \
    -extfile <(echo "subjectAltName=${3:-DNS:$1}")
}

encoded() { base64 --wrap 0 "$state/pki/$1"; }

write_kubeconfig() { # user
  cat >"$state/$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters:
  - name: finetune-$name
    cluster: {server: "https://$node_ip:6443", certificate-authority-data: $(encoded ca.crt)}
users:
  - name: $1
    user: {client-certificate-data: $(encoded "$1.crt"), client-key-data: $(encoded "$1.key")}
contexts:
  - name: finetune-$name
    context: {cluster: finetune-$name, user: $1}
current-context: finetune-$name
YAML
  chmod 600 "$state/$1.kubeconfig"
}
