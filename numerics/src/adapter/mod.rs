//! Low-rank adapters: which modules of a model have one, of which rank and scale, and their parameters.

mod lora;
mod pattern;
mod scheme;
mod settings;

pub use lora::Lora;
pub use pattern::Pattern;
pub use scheme::{AdaptedModule, Scheme};
pub use settings::LoraSettings;
