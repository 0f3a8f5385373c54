#!/usr/bin/env bash
# Runs the tests that compute as other processors would: a matrix product is summed in another order for each set of instructions and
# each number of threads, and no test may depend on that.
#
#   tests/processors.sh [CARGO-OPTION...]      the options select the packages and the profile, as for `cargo test`
#
# The test programs are the same each time; what changes is which kernels libtorch and our own loops choose (ATEN_CPU_CAPABILITY), oneDNN for products
# in bfloat16 (ONEDNN_MAX_CPU_ISA) and MKL for products in fp32 (MKL_ENABLE_INSTRUCTIONS; MKL hears it on processors of Intel only). A setting that
# this processor lacks is left out, and said so. Tests of bfloat16's parity are run from AVX-512 on: below it oneDNN has no
# kernel for it. Those of single operations hold without one.
set -euo pipefail
cd "$(dirname "$0")/.."

# Name, instructions that the processor must have (as /proc/cpuinfo names them), the environment, and which tests.
settings='
plain   sse4_2       ATEN_CPU_CAPABILITY=default,ONEDNN_MAX_CPU_ISA=SSE41,MKL_ENABLE_INSTRUCTIONS=SSE4_2        without-bf16
avx2    avx2         ATEN_CPU_CAPABILITY=avx2,ONEDNN_MAX_CPU_ISA=AVX2,MKL_ENABLE_INSTRUCTIONS=AVX2              without-bf16
avx512  avx512bw     ATEN_CPU_CAPABILITY=avx512,ONEDNN_MAX_CPU_ISA=AVX512_CORE,MKL_ENABLE_INSTRUCTIONS=AVX512   all
newest  avx512_bf16  ONEDNN_MAX_CPU_ISA=DEFAULT                                                                all
'
has() { grep -qw "$1" <(grep -m1 '^flags' /proc/cpuinfo); }

# The programs, compiled before; their paths are in cargo's messages.
programs=$(cargo test "$@" --quiet --no-run --message-format=json --lib --test parity --test command_line |
    sed -nE 's/.*"kind":\["(lib|test)"\].*"name":"(finetune_numerics|parity|command_line)".*"executable":"([^"]+)".*/\2 \3/p') || true
program() { awk -v name="$1" '$1 == name { print $2 }' <<<"$programs"; }
for name in finetune_numerics parity command_line; do
    [ -x "$(program "$name")" ] || { echo "cargo names no program of the tests of $name: run \`cargo test $* --no-run\`" >&2; exit 1; }
done

# Threads that spin while they wait would take the processor from those of other tests (OMP_WAIT_POLICY).
# Of the tests that resume, the one that computes the most; the others differ in when they stop the trainer.
run() { # VARIABLES THREADS PROGRAM ARGUMENT...: how many tests passed; fails with what the program said
    local said passed variables
    IFS=, read -ra variables <<<"$1,OMP_WAIT_POLICY=passive,OMP_NUM_THREADS=$2,MKL_NUM_THREADS=$2,FINETUNE_TEST_THREADS=$2"
    said=$(cd trainer && env "${variables[@]}" "${@:3}" 2>&1) || { echo "$said" >&2; return 1; }
    passed=$(sed -nE 's/^test result: ok\. ([0-9]+) passed.*/\1/p' <<<"$said")
    [ "${passed:-0}" -gt 0 ] || { echo "$3 has no test ${*:4}" >&2; return 1; }
    echo "$passed"
}
fault=0
runs=0
while read -r name instructions variables tests; do
    [ -n "$name" ] || continue
    if ! has "$instructions"; then
        echo "$name: left out, this processor has no $instructions"
        continue
    fi
    skip=()
    [ "$tests" = all ] || skip=(--skip bf16)
    for threads in 1 2; do
        runs=$((runs + 1))
        began=$SECONDS
        operations=$(run "$variables" "$threads" "$(program finetune_numerics)") || fault=1
        parity=$(run "$variables" "$threads" "$(program parity)" "${skip[@]}") || fault=1
        resumed=$(run "$variables" "$threads" "$(program command_line)" told_to_stop) || fault=1
        echo "$name, threads $threads: ${operations:-not all} tests of operations passed, ${parity:-not all} of parity," \
            "${resumed:-not all} of resuming, in $((SECONDS - began)) s"
    done
done <<<"$settings"
[ "$runs" -gt 0 ] || { echo "this processor has none of the settings, expected one of x86-64 at least" >&2; exit 1; }
echo "in all $SECONDS s"
exit "$fault"
