//! What this machine computes with: how many threads, and in which type of number.

use finetune_crds::fine_tune_job::ComputeType;
use tch::Kind;

/// The number of CPUs that this process may use, at least 1.
///
/// The standard library takes the smallest of the scheduler's mask and the control group's limit (versions 1 and 2), so
/// a pod that is limited to two CPUs on a machine of 64 is not throttled by its own threads.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The type of activations and of a dense base in training: what the job says, else the one whose products are faster here.
pub fn compute_kind(compute_type: ComputeType) -> Kind {
    kind_or(compute_type, || multiplies_bfloat16().is_faster())
}

/// The type in which a base is held to be served: what was asked for, else bfloat16 where the processor multiplies it at all. A
/// single token's products wait for memory, of which it takes half.
pub fn serving_kind(compute_type: ComputeType) -> Kind {
    kind_or(compute_type, || multiplies_bfloat16() != Bfloat16::Emulated)
}

fn kind_or(compute_type: ComputeType, prefers_bfloat16: impl Fn() -> bool) -> Kind {
    let bfloat16 = match compute_type {
        ComputeType::BFloat16 => true,
        ComputeType::Float32 => false,
        ComputeType::Auto => prefers_bfloat16(),
    };
    match bfloat16 {
        true => Kind::BFloat16,
        false => Kind::Float,
    }
}

/// The type in which a run computes that was begun, at another try, in `begun_in`. A run keeps its type, wherever it goes on:
/// its numbers and the type that its adapter is proven in would otherwise change in the middle.
pub fn kind_of_run(compute_type: ComputeType, begun_in: Option<ComputeType>) -> Kind {
    let here = compute_kind(compute_type);
    let Some(begun_in) = begun_in
        .map(compute_kind)
        .filter(|begun_in| *begun_in != here)
    else {
        return here;
    };
    let slowly = match begun_in {
        Kind::BFloat16 => ", slowly: this processor multiplies float32 faster",
        _ => "",
    };
    tracing::warn!(
        "training.computeType {compute_type:?} means {} on this machine, but the run was begun in {} and goes on in that{slowly}",
        kind_name(here),
        kind_name(begun_in),
    );
    begun_in
}

/// The name of a type in a manifest.
pub fn compute_type(kind: Kind) -> ComputeType {
    match kind {
        Kind::BFloat16 => ComputeType::BFloat16,
        _ => ComputeType::Float32,
    }
}

/// The name that manifests of other tools have for a type.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    }
}

/// How a processor multiplies matrices of bfloat16.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Bfloat16 {
    /// By instructions of float32.
    Emulated,
    /// By instructions of its own, which do no more in a second than those of float32.
    Held,
    /// By instructions that do more.
    Faster,
}

impl Bfloat16 {
    fn is_faster(self) -> bool {
        self == Self::Faster
    }
}

/// AMX multiplies many times more, and AMD's AVX512-BF16 twice as much. Intel's AVX512-BF16 does in one instruction what its
/// two units for float32 do in the same time, and the matrices must be laid out for it besides.
#[cfg(target_arch = "x86_64")]
fn multiplies_bfloat16() -> Bfloat16 {
    use std::arch::is_x86_feature_detected;
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    /// Bit 22 of EDX in leaf 7.
    const AMX_BF16: u32 = 1 << 22;
    /// "AuthenticAMD" begins so, in EBX of leaf 0.
    const AMD: u32 = u32::from_le_bytes(*b"Auth");
    let vendor = __cpuid(0);
    let has_amx = vendor.eax >= 7 && __cpuid_count(7, 0).edx & AMX_BF16 != 0;
    match is_x86_feature_detected!("avx512bf16") {
        true if has_amx || vendor.ebx == AMD => Bfloat16::Faster,
        true => Bfloat16::Held,
        false => Bfloat16::Emulated,
    }
}

#[cfg(target_arch = "aarch64")]
fn multiplies_bfloat16() -> Bfloat16 {
    match std::arch::is_aarch64_feature_detected!("bf16") {
        true => Bfloat16::Faster,
        false => Bfloat16::Emulated,
    }
}

/// Unknown processors compute in float32.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn multiplies_bfloat16() -> Bfloat16 {
    Bfloat16::Emulated
}
