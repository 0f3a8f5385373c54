//! What to do: a FineTuneJob that was read, checked and found good.
//!
//! The spec stays as it was written, for digests, data and reports. What in it decides how a run goes is said once more in enums, so
//! that the compiler finds every place that a new method or objective touches.

mod method;
mod objective;

use finetune_crds::FineTuneJobSpec;

pub use method::{AdapterSettings, TrainingMethod};
pub use objective::TrainingObjective;

/// A job whose manifest is good.
#[derive(Clone, Debug)]
pub struct Job {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`, or `default`.
    pub namespace: String,
    /// `metadata.uid`, or an id derived from namespace, name and spec for a manifest written by hand.
    pub uid: String,
    /// The digest of [`Self::spec`].
    pub spec_digest: String,
    /// What to do.
    pub spec: FineTuneJobSpec,
    /// What of the model is trained, as the spec says it.
    pub method: TrainingMethod,
    /// What it learns, as the spec says it.
    pub objective: TrainingObjective,
}

impl Job {
    /// Whether the adapter is written for llama.cpp too.
    pub fn wants_gguf_adapter(&self) -> bool {
        let output = self.spec.output.as_ref();
        output.is_some_and(|output| output.gguf_adapter)
    }

    /// Whether the base with the adapter merged into it is published too.
    pub fn wants_merged_model(&self) -> bool {
        let output = self.spec.output.as_ref();
        output.is_some_and(|output| output.merged_model)
    }
}
