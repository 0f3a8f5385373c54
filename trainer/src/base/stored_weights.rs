//! What a base's files hold beside what a model computes with.

use finetune_artifacts::safetensors_file::TensorView;
use finetune_numerics::model::WeightSource;

/// The weights of a base as its files have them.
pub trait StoredWeights: WeightSource {
    /// What lies beside the model in its files, such as a vision tower, by its names there: of any type, and read by nobody.
    fn beside(&self) -> Vec<(String, TensorView<'_>)> {
        Vec::new()
    }
}
