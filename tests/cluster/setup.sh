#!/usr/bin/env bash
# Installs the Debian packages that the test cluster and the image builds need: setup.sh
#
# Does nothing, and needs no network, where all of them are there. Runs as root on Debian 12 or newer.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ "${1:-}" != --help ] || { usage; exit; }

packages=(
  containerd runc containernetworking-plugins # the node
  iproute2 iptables conntrack util-linux      # its network and namespaces
  openssl curl unzip binutils gcc libc6-dev   # certificates, S3 requests, wheels, the pause program
  buildah mmdebstrap                          # images
  jq prometheus                               # the demo
  docker-registry                             # the tests of images/push.sh
)

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  die "this machine has no apt-get, expected Debian 12 or newer: install by hand: ${packages[*]}"
fi
installed=$(dpkg-query --show --showformat '${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null || true)
missing=()
for package in "${packages[@]}"; do
  grep -qx "$package installed" <<<"$installed" || missing+=("$package")
done
python3 -c 'import pip' 2>/dev/null || missing+=(python3-pip)
[ "${#missing[@]}" -gt 0 ] || exit 0

require_root
say "installing ${missing[*]}"
output=$(mktemp) && trap 'rm -f "$output"' EXIT
export DEBIAN_FRONTEND=noninteractive
{ apt-get update && apt-get install --yes --no-install-recommends "${missing[@]}"; } >"$output" 2>&1 ||
  { tail -n 20 "$output" >&2; die "apt-get could not install ${missing[*]}: see above"; }
