//! From gradients to parameters: one flat buffer, clipping, AdamW, and the learning rate of each step.
//!
//! Nothing in here knows what the parameters mean, and nothing reads a clock or draws a random number.

mod adamw;
mod clip;
mod parameters;
mod schedule;

pub use adamw::AdamW;
pub use clip::clip_gradient_norm;
pub use parameters::{Parameter, Parameters};
pub use schedule::learning_rate;
