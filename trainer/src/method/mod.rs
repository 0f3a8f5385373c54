//! What is trained and how the base is held: all weights (`full`), a low-rank adapter (`lora`), a 4-bit base (`nf4`).

pub mod full;
mod lora;
mod merged;
pub mod nf4;
mod nf4_decode;
mod pattern;
mod scheme;

pub use lora::Lora;
pub use merged::Merged;
pub use pattern::Pattern;
pub use scheme::{AdaptedModule, Scheme};
