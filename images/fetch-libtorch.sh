#!/usr/bin/env bash
# Fetches libtorch 2.11.0 for building and running the trainer, and prints its folder: fetch-libtorch.sh
#
#   export LIBTORCH=$(images/fetch-libtorch.sh)    # to build; to run a test by hand also LD_LIBRARY_PATH=$LIBTORCH/lib
# The folder ($FINETUNE_CACHE/libtorch-2.11.0, default cache: ~/.cache/finetune-operator) has include/ and lib/ with the
# CPU libraries, taken out of wheels pinned by digest. x86-64 only. Does nothing if it is there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
[ "${1:-}" != --help ] || { usage; exit; }

libtorch=$cache/libtorch-2.11.0
if [ ! -d "$libtorch" ]; then
  started=$SECONDS
  [ "$(uname -m)" = x86_64 ] || die "this machine is $(uname -m), expected x86_64: the pinned libtorch is built for it"
  mkdir -p "$cache"
  exec 9<"$cache" && flock 9
fi
if [ ! -d "$libtorch" ]; then
  say 'fetching libtorch (540 MB)'
  wheels=$(mktemp --directory "$cache/wheels.XXXXXX") && trap 'rm -rf "$wheels" "$libtorch.partial"' EXIT
  # The wheel is only a container of libraries here, so its Python version need not be this machine's.
  python3 -m pip download --quiet --no-cache-dir --no-deps --require-hashes --only-binary :all: \
    --implementation cp --python-version 311 --abi cp311 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux2014_x86_64 \
    --requirement "$here/libtorch-requirements.txt" --dest "$wheels" >&2
  rm -rf "$libtorch.partial" && mkdir -p "$libtorch.partial/lib"
  (
    cd "$libtorch.partial"
    unzip -q "$wheels"/torch-*.whl 'torch/include/*' torch/lib/{libtorch,libtorch_cpu,libc10}.so torch/lib/libgomp.so.1
    mv torch/include . && mv torch/lib/* lib/ && rm -r torch
    unzip -q -j -d lib "$wheels"/nvidia_cuda_runtime-*.whl '*/libcudart.so.13'
    unzip -q -j -d lib "$wheels"/nvidia_cuda_cupti-*.whl '*/libcupti.so.13'
    strip --strip-unneeded lib/*
  )
  mv "$libtorch.partial" "$libtorch"
  say "fetched libtorch in $((SECONDS - started)) s"
fi
printf '%s\n' "$libtorch"
