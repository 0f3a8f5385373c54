//! How much work a template may do for one conversation, and what its functions pay for theirs. Pure.
//!
//! minijinja takes one fuel for an instruction and for 64 bytes that are made, so that fuel bounds time and memory alike. What is
//! made by functions of ours is paid for before it is made.

use std::error::Error as _;

use finetune_artifacts::rows::Message;
use finetune_artifacts::rows::json::Json;
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

/// For a conversation of no length: 16 MB of text, or some hundred times what ordinary templates take.
const BASE: u64 = 250_000;
/// More for a message. Ordinary templates take some hundreds, and some look at all messages again for each.
const OF_A_MESSAGE: u64 = 2_000;
/// More for a byte: 64 bytes of work, where writing JSON takes 16.
const OF_A_BYTE: u64 = 1;
/// Never more: 1 GB of text.
const MOST: u64 = 16_000_000;
/// More lists within lists than data or tools have. Whoever prints a value of more refuses it.
pub(super) const MOST_LEVELS: usize = 128;

/// What the template may take for this conversation.
pub(super) fn of(messages: &[Message], tools: &[Json]) -> u64 {
    let json = |value: &Json| value.to_text().len();
    let said = messages.iter().map(|message| {
        let content = message.content.as_deref().unwrap_or_default();
        content.len() + message.fields.values().map(json).sum::<usize>()
    });
    let bytes = said.sum::<usize>() + tools.iter().map(json).sum::<usize>();
    let more = OF_A_MESSAGE * messages.len() as u64 + OF_A_BYTE * bytes as u64;
    (BASE + more).min(MOST)
}

/// Charges for something of so many bytes before it is made.
pub(super) fn pay(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(1 + bytes as u64 / 64)
}

/// Whether a template failed for want of fuel.
pub(super) fn is_spent(error: &Error) -> bool {
    let mut error = Some(error);
    while let Some(at) = error {
        if at.kind() == ErrorKind::OutOfFuel {
            return true;
        }
        error = at.source().and_then(|source| source.downcast_ref());
    }
    false
}

/// The bytes of the texts in a value. Each item is charged, because a list may hold one text any number of times.
pub(super) fn weight(state: &State<'_, '_>, value: &Value) -> Result<usize, Error> {
    weight_at(state, value, 0)
}

fn weight_at(state: &State<'_, '_>, value: &Value, level: usize) -> Result<usize, Error> {
    // Whoever prints it refuses it.
    if level > MOST_LEVELS {
        return Ok(0);
    }
    pay(state, 0)?;
    let sum = |keys: bool| -> Result<usize, Error> {
        let mut sum = 0_usize;
        for item in value.try_iter()? {
            sum = sum.saturating_add(weight_at(state, &item, level + 1)?);
            if keys {
                let item = value.get_item(&item)?;
                sum = sum.saturating_add(weight_at(state, &item, level + 1)?);
            }
        }
        Ok(sum)
    };
    match value.kind() {
        ValueKind::String => Ok(value.as_str().map_or(0, str::len)),
        ValueKind::Map => sum(true),
        ValueKind::Seq | ValueKind::Iterable => sum(false),
        _ => Ok(0),
    }
}
