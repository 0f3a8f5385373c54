//! Which instructions our own loops take.

use std::sync::OnceLock;

/// Sets of instructions that loops are compiled for, each with those before it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Instructions {
    /// What every processor of its kind has.
    Any,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// The parts of AVX-512 that loops are compiled for: F, BW, DQ and VL.
    Avx512,
}

/// The widest that the processor has, or less where libtorch is told so by its variable `ATEN_CPU_CAPABILITY`: what it says holds for our
/// loops, too.
pub(crate) fn instructions() -> Instructions {
    static FOUND: OnceLock<Instructions> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let most = match std::env::var("ATEN_CPU_CAPABILITY").as_deref() {
            Ok("default") => Instructions::Any,
            Ok("avx2") => Instructions::Avx2,
            _ => Instructions::Avx512,
        };
        of_processor().min(most)
    })
}

#[cfg(target_arch = "x86_64")]
fn of_processor() -> Instructions {
    use std::arch::is_x86_feature_detected;
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx512) {
        (true, true) => Instructions::Avx512,
        (true, false) => Instructions::Avx2,
        (false, _) => Instructions::Any,
    }
}

#[cfg(not(target_arch = "x86_64"))]
const fn of_processor() -> Instructions {
    Instructions::Any
}
