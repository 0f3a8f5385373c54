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
        && onednn_may_use(OneDnnSet::Amx);
    match is_x86_feature_detected!("avx512bf16") {
        true if has_amx || vendor.ebx == AMD => Bfloat16::Faster,
        true => Bfloat16::Held,
        false => Bfloat16::Emulated,
    }
}

/// Sets of instructions that oneDNN can be kept from.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum OneDnnSet {
    /// AVX512-BF16.
    Avx512Bf16,
    /// AMX.
    Amx,
}

/// Whether oneDNN's environment lets it use these instructions: a processor that has them computes as one without where it does not.
#[cfg(target_arch = "x86_64")]
pub(crate) fn onednn_may_use(set: OneDnnSet) -> bool {
    // Both names that it reads, in its order.
    let names = ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"];
    let bound = names.into_iter().find_map(|name| std::env::var(name).ok());
    bound.is_none_or(|bound| allows(&bound, set))
}

#[cfg(target_arch = "x86_64")]
fn allows(bound: &str, set: OneDnnSet) -> bool {
    let bound = bound.to_ascii_uppercase();
    let bound = bound.as_str();
    let has_amx = matches!(bound, "ALL" | "DEFAULT") || bound.contains("AMX");
    match set {
        OneDnnSet::Amx => has_amx,
        OneDnnSet::Avx512Bf16 => {
            let others = [
                "AVX512_CORE_BF16",
                "AVX512_CORE_FP16",
                "AVX10_1_512",
                "AVX10_2_512",
            ];
            has_amx || others.contains(&bound)
        }
    }
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
    fn a_bound_takes_away_what_is_above_it() {
        for (bound, has_bfloat16, has_amx) in [
            ("ALL", true, true),
            ("default", true, true),
            ("AVX512_CORE_AMX", true, true),
            ("AVX512_CORE_AMX_FP16", true, true),
            ("avx512_core_bf16", true, false),
            ("AVX512_CORE_FP16", true, false),
            ("AVX512_CORE_VNNI", false, false),
            ("AVX512_CORE", false, false),
            ("AVX2", false, false),
            ("SSE41", false, false),
        ] {
            let found = [OneDnnSet::Avx512Bf16, OneDnnSet::Amx].map(|set| allows(bound, set));
            assert_eq!(found, [has_bfloat16, has_amx], "{bound}");
        }
    }
}
