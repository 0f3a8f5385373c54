//! What a model is made of, before it has any weights: its sizes, how its family wires the operations, and the names and shapes of
//! what both `model` and `adapter` have numbers for.

mod config;
mod projection;
mod tensors;
mod wiring;

pub use config::{Biases, ModelConfig};
pub use projection::Projection;
pub use wiring::{NormPlaces, QueryKeyNorms, Windows, Wiring};

pub(crate) use tensors::HEAD;
pub(crate) use wiring::BranchNorms;
