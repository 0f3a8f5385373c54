#!/usr/bin/env bash
# Builds the tools of the test cluster from their Go modules: build-tools.sh [SET...]
#
# A set is a folder of tests/cluster/tools (default: all). Each is built once into
# $FINETUNE_CACHE/bin/SET-HASH/ (default cache: ~/.cache/finetune-operator), and again only when its go.mod, its
# go.sum, go.work or the flags change; $FINETUNE_CACHE/bin/current/ has links to them. Needs Go 1.26 or newer.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ "${1:-}" != --help ] || { usage; exit; }

# The version of a module as the set's go.mod requires it.
version_of() { # set module
  awk -v module="$2" '{sub(/^require /, "")} $1 == module {print $2; exit}' "$here/tools/$1/go.mod"
}

# Tools that are built outside their repository do not know their version unless the linker is told.
linker_flags() { # set
  local version component_base=k8s.io/component-base/version
  printf -- '-s -w'
  case $1 in
    kubernetes)
      version=$(version_of kubernetes k8s.io/kubernetes)
      printf -- ' -X %s.gitVersion=%s' "$component_base" "$version"
      printf -- ' -X %s.gitMajor=%s' "$component_base" "$(cut -d. -f1 <<<"${version#v}")"
      printf -- ' -X %s.gitMinor=%s' "$component_base" "$(cut -d. -f2 <<<"$version")" ;;
    helm) printf -- ' -X helm.sh/helm/v4/internal/version.version=%s' "$(version_of helm helm.sh/helm/v4)" ;;
    versitygw) printf -- ' -X main.Version=%s' "$(version_of versitygw github.com/versity/versitygw)" ;;
  esac
}

build() { # set
  local directory started=$SECONDS output packages
  directory=$(tool_directory "$1")
  if [ -d "$directory" ]; then return; fi
  output=$directory.partial/
  rm -rf "$output" && mkdir -p "$output"
  case $1 in
    coredns) packages=. ;; # our own main, with fewer plugins
    # By name: in a workspace the word `tool` means those of all its sets.
    *) packages=$(sed -nE 's/^(tool)?[[:space:]]+([^[:space:]]+\/[^[:space:]]+)$/\2/p' "$here/tools/$1/go.mod") ;;
  esac
  [ "$1" != etcd ] || output+=etcd # else the file would be called "server"
  # One `go build` for the whole set, so that linking one tool overlaps with compiling the next. A lazier garbage
  # collector in the compiler saves a tenth of the time.
  # shellcheck disable=SC2086 # several packages
  (cd "$here/tools/$1" && GOWORK=$(workspace "$1") GOFLAGS='' GOGC=400 CGO_ENABLED=0 \
    go build "${go_flags[@]}" -ldflags "$(linker_flags "$1")" -o "$output" $packages)
  mv "$directory.partial" "$directory"
  say "built $(cd "$directory" && echo *) in $((SECONDS - started)) s"
}

[ $# -gt 0 ] || set -- "${tool_sets[@]}"
mkdir -p "$cache/bin/current"
exec 9>"$cache/bin/.lock" && flock 9 # two builds at once would each take twice as long
for set in "$@"; do
  [ -d "$here/tools/$set" ] || die "unknown set \`$set\`, expected one of: ${tool_sets[*]}"
  command -v go >/dev/null || die "\`go\` is not installed: get Go 1.26 or newer from https://go.dev/dl/"
  build "$set"
  ln --symbolic --force --relative "$(tool_directory "$set")"/* "$cache/bin/current/"
done
