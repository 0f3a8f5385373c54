//! What a row holds, once it is read: the same for every file format.

use std::borrow::Cow;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::json::{Json, Object};

/// One turn of a conversation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said; `None` where the row has no `content`, or a null one, which only a turn that calls tools may have.
    pub content: Option<String>,
    /// The parts of `content`, where it was given as a list of texts; else empty.
    pub parts: Vec<String>,
    /// What else the chat template sees, in order: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`. What is null or
    /// empty in the row is not among them. The arguments of calls are an object or JSON in a text, as the row has them.
    pub fields: Object,
    /// Whether the turn may carry loss: a weight of 0 says that it may not.
    pub trained: bool,
}

impl Message {
    /// A turn that is text alone.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: Some(content.into()),
            parts: Vec::new(),
            fields: Object::new(),
            trained: true,
        }
    }

    /// Whether the assistant says it.
    pub fn is_assistant(&self) -> bool {
        self.role == ASSISTANT
    }

    /// Whether it is the assistant's and says and calls nothing.
    fn is_empty_answer(&self) -> bool {
        self.is_assistant()
            && self
                .content
                .as_deref()
                .unwrap_or_default()
                .trim()
                .is_empty()
            && !self.fields.contains_key(TOOL_CALLS)
    }
}

/// The role that is trained.
pub(super) const ASSISTANT: &str = "assistant";
/// The field with the calls of a turn.
pub const TOOL_CALLS: &str = "tool_calls";

/// A conversation and the tools that stood at its disposal.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Conversation {
    /// One or more turns.
    pub messages: Vec<Message>,
    /// Descriptions of functions, as the chat template gets them; often none.
    pub tools: Vec<Json>,
}

/// What a row holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RowContent {
    /// A conversation.
    Messages(Conversation),
    /// A text and how it goes on.
    PromptCompletion {
        /// What is given.
        prompt: String,
        /// What is learnt.
        completion: String,
    },
    /// Plain text.
    Text(String),
    /// A whole document, which is cut into as many rows of tokens as it needs.
    Document(String),
    /// A task and its answer.
    Alpaca {
        /// What was said before: the system's turn, then earlier questions and answers; often nothing.
        before: Vec<Message>,
        /// What is to be done.
        instruction: String,
        /// What it is to be done with; often empty.
        input: String,
        /// What is learnt.
        output: String,
    },
    /// Two answers to one prompt, each with the prompt before it.
    Preference {
        /// The one that is preferred.
        chosen: Box<Self>,
        /// The other one.
        rejected: Box<Self>,
    },
}

impl RowContent {
    /// A hash of the content alone: equal for equal rows, wherever they stand and however their JSON is written.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        let mut add = |part: &str| {
            // The length goes first, so that no two lists of parts run together to the same bytes.
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        };
        add(match self {
            Self::Messages(_) => "messages",
            Self::PromptCompletion { .. } => "prompt",
            Self::Text(_) | Self::Document(_) => "text",
            Self::Alpaca { .. } => "instruction",
            Self::Preference { .. } => "preference",
        });
        if let Self::Messages(conversation) = self {
            for message in &conversation.messages {
                add(&message.role);
                add(message.content.as_deref().unwrap_or_default());
                for (name, value) in &message.fields {
                    add(name);
                    add(&value.to_text());
                }
                if !message.trained {
                    add("weight 0");
                }
            }
            for tool in &conversation.tools {
                add(&tool.to_text());
            }
        } else if let Self::Preference { chosen, rejected } = self {
            for answer in [chosen, rejected] {
                add(&hex::encode(answer.hash()));
            }
        } else {
            if let Self::Alpaca { before, .. } = self {
                for message in before {
                    add(&message.role);
                }
            }
            for text in self.texts() {
                add(&text);
            }
        }
        hasher.finalize().into()
    }

    /// All that a person wrote in it, in order.
    pub fn texts(&self) -> Vec<Cow<'_, str>> {
        match self {
            Self::Messages(conversation) => conversation
                .messages
                .iter()
                .flat_map(|message| {
                    let content = message.content.as_deref().map(Cow::Borrowed);
                    let fields = message.fields.values().map(|value| match value {
                        Json::Text(text) => Cow::Borrowed(text.as_str()),
                        other => Cow::Owned(other.to_text()),
                    });
                    content.into_iter().chain(fields)
                })
                .collect(),
            Self::PromptCompletion { prompt, completion } => {
                vec![prompt.into(), completion.into()]
            }
            Self::Text(text) | Self::Document(text) => vec![text.into()],
            Self::Alpaca {
                before,
                instruction,
                input,
                output,
            } => {
                let before = before
                    .iter()
                    .filter_map(|message| message.content.as_deref());
                let task = [instruction.as_str(), input.as_str(), output.as_str()];
                before.chain(task).map(Cow::Borrowed).collect()
            }
            Self::Preference { chosen, rejected } => {
                let mut texts = chosen.texts();
                texts.extend(rejected.texts());
                texts
            }
        }
    }

    /// What a row is about, for comparing rows: without the instructions that many conversations share.
    pub fn words(&self) -> String {
        let (turns, task): (&[Message], Vec<&str>) = match self {
            Self::Messages(conversation) => (conversation.messages.as_slice(), Vec::new()),
            Self::Alpaca {
                before,
                instruction,
                input,
                output,
            } => (
                before.as_slice(),
                vec![instruction.as_str(), input.as_str(), output.as_str()],
            ),
            _ => return self.texts().join("\n"),
        };
        let own = |message: &&Message| !matches!(message.role.as_str(), "system" | "developer");
        let turns = turns.iter().filter(own);
        let mut texts: Vec<&str> = turns.filter_map(|turn| turn.content.as_deref()).collect();
        texts.extend(task);
        texts.join("\n")
    }

    /// Whether what is to be learnt is empty or white space: an answer, a completion, an output.
    pub fn has_empty_completion(&self) -> bool {
        match self {
            Self::Messages(conversation) => {
                let mut messages = conversation.messages.iter();
                messages.any(|message| message.trained && message.is_empty_answer())
            }
            Self::PromptCompletion { completion, .. } => completion.trim().is_empty(),
            Self::Text(text) | Self::Document(text) => text.trim().is_empty(),
            Self::Alpaca { output, .. } => output.trim().is_empty(),
            Self::Preference { chosen, .. } => chosen.has_empty_completion(),
        }
    }
}

/// A row and where it stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Row {
    /// The file.
    pub file: Arc<str>,
    /// The line, from 1; in Parquet the row.
    pub line: usize,
    /// What it holds.
    pub content: RowContent,
}
