#!/usr/bin/env bash
# Builds the images if need be and copies them to a registry: push.sh REGISTRY/PATH [operator] [trainer]
#
#   images/push.sh registry.example.com/team
# pushes registry.example.com/team/finetune-operator:VERSION and …/finetune-trainer:VERSION, and prints each one with the
# digest that the registry has it under. Log in first: `buildah login registry.example.com` (what `docker login` and
# `podman login` have saved counts too). A registry that speaks plain http: TLS_VERIFY=false. Runs as root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
[ "${1:-}" != --help ] || { usage; exit; }
[ $# -gt 0 ] || { usage >&2; exit 2; }
destination=${1%/}
shift
case $destination in
  */* | *.* | *:*) ;;
  *) die "\`$destination\` names no registry, expected for example registry.example.com/team" ;;
esac
[ $# -gt 0 ] || set -- operator trainer

digest=$(mktemp) && trap 'rm -f "$digest"' EXIT
for image in "$@"; do
  archive=$("$here/build.sh" "$image")
  # The archive is what was built; the storage may have been pruned since.
  buildah pull --quiet "docker-archive:$archive" >/dev/null
  target=$destination/finetune-$image:$(version)
  buildah push --quiet --tls-verify="${TLS_VERIFY:-true}" --digestfile "$digest" "$(image_tag "$image")" "docker://$target"
  printf '%s@%s\n' "$target" "$(cat "$digest")"
done
