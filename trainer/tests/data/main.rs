//! From files and rows to what the model sees: base models, tokens, chats, loss masks, prepared sets, adapters.
//!
//! Expected numbers are the reference stack's (see `fixtures/README.md`).

#![allow(
    clippy::unwrap_used,
    clippy::format_collect,
    clippy::needless_pass_by_value,
    reason = "what a test cannot set up it fails on, and it is short before it is fast"
)]

mod base;
mod chat;
mod loss_mask;
mod peft;
mod prepare;
mod sentence_piece;
mod template_notes;
mod templates;
#[path = "../tolerance/mod.rs"]
mod tolerance;
mod turn_end;

use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// SmolLM2's GGUF: named by the environment, or where `tests/cluster/fetch-model.sh` puts it. `None` where it is not.
fn smollm2() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FINETUNE_SMOLLM2_GGUF") {
        return Some(path.into());
    }
    let cache = std::env::var_os("FINETUNE_CACHE")
        .map(PathBuf::from)
        .or_else(|| {
            Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/finetune-operator"))
        })?;
    let path = cache.join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    path.is_file().then_some(path)
}
