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
