//! What this machine computes with: how many threads, and in which type of number it is fast.

use std::sync::OnceLock;

use tch::Kind;

/// The number of CPUs that this process may use, at least 1.
///
/// The standard library takes the smallest of the scheduler's mask and the control group's limit (versions 1 and 2), so
/// a pod that is limited to two CPUs on a machine of 64 is not throttled by its own threads.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
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
pub enum Bfloat16 {
    /// By instructions of float32.
    Emulated,
    /// By instructions of its own, which do no more in a second than those of float32.
    Held,
    /// By instructions that do more.
    Faster,
}

/// How this processor does. It is asked once: on a virtual machine the question leaves it.
pub fn multiplies_bfloat16() -> Bfloat16 {
    static FOUND: OnceLock<Bfloat16> = OnceLock::new();
    *FOUND.get_or_init(of_processor)
}

/// AMX multiplies many times more, and AMD's AVX512-BF16 twice as much. Intel's AVX512-BF16 does in one instruction what its
/// two units for float32 do in the same time, and the matrices must be laid out for it besides.
#[cfg(target_arch = "x86_64")]
fn of_processor() -> Bfloat16 {
    use std::arch::is_x86_feature_detected;
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    /// Bit 22 of EDX in leaf 7.
    const AMX_BF16: u32 = 1 << 22;
    /// "AuthenticAMD" begins so, in EBX of leaf 0.
    const AMD: u32 = u32::from_le_bytes(*b"Auth");
    let vendor = __cpuid(0);
    let has_amx = vendor.eax >= 7
        && __cpuid_count(7, 0).edx & AMX_BF16 != 0
        && allows_amx(std::env::var("ONEDNN_MAX_CPU_ISA").ok().as_deref());
    match is_x86_feature_detected!("avx512bf16") {
        true if has_amx || vendor.ebx == AMD => Bfloat16::Faster,
        true => Bfloat16::Held,
        false => Bfloat16::Emulated,
    }
}

/// Whether oneDNN may use AMX where its environment bounds the instructions that it takes: a processor with AMX then computes as one
/// without.
#[cfg(target_arch = "x86_64")]
fn allows_amx(bound: Option<&str>) -> bool {
    bound.is_none_or(|bound| {
        let bound = bound.to_ascii_uppercase();
        ["ALL", "DEFAULT"].contains(&bound.as_str()) || bound.contains("AMX")
    })
}

/// Graviton 3 and its like have instructions that do more.
#[cfg(target_arch = "aarch64")]
fn of_processor() -> Bfloat16 {
    match std::arch::is_aarch64_feature_detected!("bf16") {
        true => Bfloat16::Faster,
        false => Bfloat16::Emulated,
    }
}

/// Unknown processors compute in float32.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn of_processor() -> Bfloat16 {
    Bfloat16::Emulated
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn a_bound_below_amx_takes_amx_away() {
        for (bound, allows) in [
            (None, true),
            (Some("default"), true),
            (Some("AVX512_CORE_AMX"), true),
            (Some("AVX512_CORE_BF16"), false),
            (Some("AVX2"), false),
        ] {
            assert_eq!(allows_amx(bound), allows, "{bound:?}");
        }
    }
}
