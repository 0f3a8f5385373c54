//! `{"instruction": …, "input": …, "output": …}`: a task, what it is about, and its answer.

use super::RowFormat;
use crate::rows::content::RowContent;
use crate::rows::fault::Problem;
use crate::rows::record::Record;

pub(super) fn parse(record: &Record<'_>) -> Result<RowContent, Problem> {
    let format = RowFormat::Alpaca;
    Ok(RowContent::Alpaca {
        instruction: record.text("instruction", format)?,
        input: record.optional_text("input")?,
        output: record.text("output", format)?,
    })
}
