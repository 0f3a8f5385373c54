//! The JSON that clients and engines exchange, as OpenAI and vLLM define it. Plain data: nothing here computes.

mod chat;
mod completion;
mod fields;
mod models;
mod prompt;
mod table;

pub(super) use chat::{ChatMessage, ChatRequest, Content, ToolCall, chat_log_probabilities};
pub(super) use completion::{CompletionRequest, completion_log_probabilities};
pub(super) use fields::{AnswerFields, Delivery, Stops, read};
pub(super) use models::{LoadAdapterRequest, ModelCard, ModelList, UnloadAdapterRequest};
pub(super) use prompt::Prompt;
pub(super) use table::{CHAT, COMPLETION, LOAD_ADAPTER, UNLOAD_ADAPTER};

use serde::Serialize;

/// How many tokens a request took.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[expect(clippy::struct_field_names, reason = "OpenAI names them so")]
pub(super) struct Usage {
    /// Tokens of the prompt.
    pub(super) prompt_tokens: usize,
    /// Tokens of the answer, the one that ended it included.
    pub(super) completion_tokens: usize,
    /// Their sum.
    pub(super) total_tokens: usize,
}

impl Usage {
    /// The usage of a prompt and its answer.
    pub(super) const fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
        }
    }
}
