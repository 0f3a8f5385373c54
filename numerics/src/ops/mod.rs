//! The operations of a language model, each with its forward and its own backward over what the forward saved.
//!
//! No automatic differentiation anywhere: what is kept between the passes, and in which type, is decided here by hand.
//! Nothing in here knows of models, files or jobs. Shapes: `M` rows (batch x tokens), `B` batch, `T` tokens, `S` keys,
//! `H` hidden, `D` head size, `V` vocabulary, `r` rank.

pub mod attention;
pub(crate) mod cpu;
pub mod cross_entropy;
pub mod embedding;
mod error;
pub mod four_bit;
pub mod gated;
pub mod linear;
pub mod logits;
pub mod low_rank;
pub(crate) mod product;
pub mod profile;
pub mod random;
pub mod rms_norm;
pub mod rope;
pub mod rotation;
pub(crate) mod side;
#[cfg(test)]
mod test_support;
pub mod trained;

pub use error::Error;

/// What every operation returns.
pub type Result<T> = std::result::Result<T, Error>;
