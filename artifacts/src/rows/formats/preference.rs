//! `{"prompt": …, "chosen": …, "rejected": …}`: two answers to one prompt, as texts or as lists of messages.

use super::messages;
use crate::rows::content::{Conversation, Message, RowContent};
use crate::rows::fault::{FaultClass, Problem};
use crate::rows::json::Json;
use crate::rows::record::Record;
use crate::rows::row_format::RowFormat;

pub(super) fn parse(record: &Record<'_>) -> Result<RowContent, Problem> {
    let answer = match record.get("prompt") {
        Some(Json::List(_)) => conversation,
        _ => texts,
    };
    Ok(RowContent::Preference {
        chosen: Box::new(answer(record, "chosen")?),
        rejected: Box::new(answer(record, "rejected")?),
    })
}

/// The prompt and how it goes on.
fn texts(record: &Record<'_>, column: &'static str) -> Result<RowContent, Problem> {
    let format = RowFormat::Preference;
    Ok(RowContent::PromptCompletion {
        prompt: record.text("prompt", format)?,
        completion: record.text(column, format)?,
    })
}

/// The messages of the prompt and the one that answers them.
fn conversation(record: &Record<'_>, column: &'static str) -> Result<RowContent, Problem> {
    let format = RowFormat::Preference;
    let mut turns = messages::list(record, "prompt", format)?;
    let answer = messages::list(record, column, format)?;
    if answer.len() != 1 || !answer.iter().all(Message::is_assistant) {
        let name = record.name_of(column);
        return Err(Problem::new(
            FaultClass::ExampleMissingAssistantMessage,
            format!(
                "`{name}` has {} messages, expected one, of the assistant: what comes before it goes into `{}`",
                answer.len(),
                record.name_of("prompt")
            ),
        ));
    }
    turns.extend(answer);
    Ok(RowContent::Messages(Conversation {
        messages: turns,
        tools: Vec::new(),
    }))
}
