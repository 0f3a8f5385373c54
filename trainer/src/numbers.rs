//! What a job says, in the types of the crate that computes: it knows no manifest.

use finetune_crds::fine_tune_job;
use finetune_numerics::adapter::LoraSettings;
use finetune_numerics::ops::four_bit::Code;
use finetune_numerics::optimizer::{OptimizerKind, Schedule};

/// The adapter that a job wants.
pub fn lora(settings: &fine_tune_job::Lora) -> LoraSettings {
    LoraSettings {
        rank: settings.rank,
        alpha: settings.alpha,
        rank_pattern: settings.rank_pattern.clone(),
        alpha_pattern: settings.alpha_pattern.clone(),
        use_rslora: settings.use_rslora,
        use_dora: settings.use_dora,
        target_modules: settings.target_modules.clone(),
    }
}

/// The optimiser that a job names.
pub const fn optimizer(optimizer: fine_tune_job::Optimizer) -> OptimizerKind {
    match optimizer {
        fine_tune_job::Optimizer::AdamW => OptimizerKind::AdamW,
        fine_tune_job::Optimizer::AdamW8bit => OptimizerKind::AdamW8bit,
    }
}

/// The schedule that a job names.
pub const fn schedule(schedule: fine_tune_job::Schedule) -> Schedule {
    match schedule {
        fine_tune_job::Schedule::Cosine => Schedule::Cosine,
        fine_tune_job::Schedule::Linear => Schedule::Linear,
        fine_tune_job::Schedule::Constant => Schedule::Constant,
    }
}

/// The 4-bit code that a job names.
pub const fn code(code: fine_tune_job::QuantizationType) -> Code {
    match code {
        fine_tune_job::QuantizationType::NF4 => Code::Nf4,
        fine_tune_job::QuantizationType::FP4 => Code::Fp4,
    }
}
