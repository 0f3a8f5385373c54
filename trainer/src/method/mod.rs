//! What is trained and how the base is held: all weights (`full`), a low-rank adapter (`lora`), a 4-bit base (`four_bit`).

pub mod four_bit;
pub mod full;
mod lora;
mod merged;
mod pattern;
mod scheme;

pub use lora::Lora;
pub use merged::Merged;
pub use pattern::Pattern;
pub use scheme::{AdaptedModule, Scheme};
