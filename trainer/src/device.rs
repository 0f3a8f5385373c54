//! In which type of number this machine computes what a job asks for.

use finetune_crds::fine_tune_job::ComputeType;
use finetune_numerics::device::{Bfloat16, kind_name, multiplies_bfloat16};
use tch::Kind;

/// The type of activations and of a dense base in training: what the job says, else the one whose products are faster here.
pub fn compute_kind(compute_type: ComputeType) -> Kind {
    kind_or(compute_type, || multiplies_bfloat16() == Bfloat16::Faster)
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
