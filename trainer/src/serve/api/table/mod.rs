//! Every field of OpenAI's and vLLM's requests, and what this server does with it. A request is checked against the tables, and
//! the page of the API is made from them. Nothing that could change an answer is passed over in silence: what is not in the
//! tables is refused by name.

mod adapters;
mod chat;
mod check;
mod completion;
mod field;
mod kind;
#[cfg(test)]
mod page;
mod shared;
#[cfg(test)]
mod tests;

use kind::{COUNT, Kind};

pub(crate) use field::Table;

/// `POST /v1/chat/completions`.
pub(crate) static CHAT: Table = Table {
    place: "`POST /v1/chat/completions`",
    fields: &[chat::FIELDS, shared::FIELDS],
    other_kinds: &[("logprobs", Kind::Boolean)],
    mistaken: &[],
};
/// `POST /v1/completions`.
pub(crate) static COMPLETION: Table = Table {
    place: "`POST /v1/completions`",
    fields: &[completion::FIELDS, shared::FIELDS],
    other_kinds: &[("logprobs", COUNT)],
    mistaken: &[],
};
/// `POST /v1/load_lora_adapter`.
pub(crate) static LOAD_ADAPTER: Table =
    Table::new("`POST /v1/load_lora_adapter`", &[adapters::LOAD]);
/// `POST /v1/unload_lora_adapter`.
pub(crate) static UNLOAD_ADAPTER: Table =
    Table::new("`POST /v1/unload_lora_adapter`", &[adapters::UNLOAD]);
