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

/// The type of activations and of a dense base.
pub fn compute_kind(compute_type: ComputeType) -> Kind {
    let bfloat16 = match compute_type {
        ComputeType::BFloat16 => true,
        ComputeType::Float32 => false,
        ComputeType::Auto => multiplies_bfloat16(),
    };
    if bfloat16 {
        Kind::BFloat16
    } else {
        Kind::Float
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
        Kind::BFloat16 => ", slowly: this processor has no instructions for it",
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

/// Whether the processor has instructions for products of bfloat16, without which they are slower than those of
/// float32.
#[cfg(target_arch = "x86_64")]
fn multiplies_bfloat16() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

/// Whether the processor has instructions for products of bfloat16, without which they are slower than those of
/// float32.
#[cfg(target_arch = "aarch64")]
fn multiplies_bfloat16() -> bool {
    std::arch::is_aarch64_feature_detected!("bf16")
}

/// Unknown processors compute in float32.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn multiplies_bfloat16() -> bool {
    false
}
