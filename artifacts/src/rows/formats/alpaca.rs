//! `{"instruction": …, "input": …, "output": …}`: a task, what it is about, and its answer. With `system` and `history`, as
//! LLaMA-Factory writes them, what was said before.

use crate::rows::content::{ASSISTANT, Message, RowContent};
use crate::rows::fault::{FaultClass, Problem};
use crate::rows::json::Json;
use crate::rows::record::Record;
use crate::rows::row_format::RowFormat;

pub(super) fn parse(record: &Record<'_>) -> Result<RowContent, Problem> {
    let format = RowFormat::Alpaca;
    let system = record.optional_text("system")?;
    let mut before = Vec::new();
    if !system.is_empty() {
        before.push(Message::new("system", system));
    }
    before.extend(history(record)?);
    Ok(RowContent::Alpaca {
        before,
        instruction: record.text("instruction", format)?,
        input: record.optional_text("input")?,
        output: record.text("output", format)?,
    })
}

/// The earlier questions and their answers, in turn.
fn history(record: &Record<'_>) -> Result<Vec<Message>, Problem> {
    let pairs = record.list("history", "pairs, [question, answer]");
    let name = record.name_of("history");
    let mut turns = Vec::new();
    for (index, pair) in pairs.transpose()?.into_iter().flatten().enumerate() {
        let wrong = |what: String| {
            Problem::new(
                FaultClass::DataType,
                format!(
                    "`{name}[{index}]` is {what}, expected a question and its answer, two texts in a list"
                ),
            )
        };
        let Json::List(pair) = pair else {
            return Err(wrong(pair.kind().to_owned()));
        };
        let [Json::Text(question), Json::Text(answer)] = pair.as_slice() else {
            let kinds: Vec<&str> = pair.iter().take(3).map(Json::kind).collect();
            return Err(wrong(match kinds.as_slice() {
                [one, other] => format!("a list of {one} and {other}"),
                _ => format!("a list of {} values", pair.len()),
            }));
        };
        turns.push(Message::new("user", question.as_str()));
        turns.push(Message::new(ASSISTANT, answer.as_str()));
    }
    Ok(turns)
}
