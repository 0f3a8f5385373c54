//! What the HTTP side asks of the worker that owns the model, and what comes back. Token ids only: text is the HTTP
//! side's matter, so that the one thread that computes does nothing else.

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::adapters::AdapterId;
use super::request_error::RequestError;
use super::sampling::Sampling;

/// One prompt to be continued.
#[derive(Debug)]
pub(super) struct Generation {
    /// The prompt, not empty.
    pub(super) prompt: Vec<u32>,
    /// Whose weights are added to the base.
    pub(super) adapter: Option<AdapterId>,
    /// The most tokens to add; 0 only scores the prompt.
    pub(super) max_new_tokens: usize,
    /// How the next token is chosen.
    pub(super) sampling: Sampling,
    /// Whether the model's end tokens end the answer.
    pub(super) stop_at_end_tokens: bool,
    /// Other tokens that end it.
    pub(super) stop_token_ids: Vec<u32>,
    /// With log-probabilities, and of how many alternatives besides the token itself.
    pub(super) alternatives: Option<usize>,
    /// Whether the prompt's own tokens are scored too.
    pub(super) score_prompt: bool,
    /// Where the answer goes; closed when the client is gone.
    pub(super) events: mpsc::UnboundedSender<Event>,
    /// The place in the queue, free again when this is dropped.
    pub(super) _place: OwnedSemaphorePermit,
    /// When it was asked for.
    pub(super) since: std::time::Instant,
}

/// A step of an answer, in this order: the prompt's scores if asked for, tokens, the end.
#[derive(Debug)]
pub(super) enum Event {
    /// The scores of all tokens of the prompt.
    Prompt(Vec<TokenScore>),
    /// One more token.
    Token(TokenScore),
    /// No more.
    Finished(FinishReason),
    /// It went wrong.
    Failed(RequestError),
}

/// A token and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TokenScore {
    /// The token's id.
    pub(super) token: u32,
    /// Its natural log-probability; absent where none was asked for, and of the first token of a prompt.
    pub(super) log_probability: Option<f64>,
    /// The likeliest tokens, the likeliest first.
    pub(super) alternatives: Vec<(u32, f64)>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum FinishReason {
    /// An end token or a stop string.
    Stop,
    /// As long as it may be.
    Length,
    /// The same as `Stop`, of an answer that calls functions.
    ToolCalls,
}

impl FinishReason {
    /// The word in answers.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}
