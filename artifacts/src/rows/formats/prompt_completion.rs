//! `{"prompt": …, "completion": …}`: the completion is learnt.

use crate::rows::content::RowContent;
use crate::rows::fault::Problem;
use crate::rows::record::Record;
use crate::rows::row_format::RowFormat;

pub(super) fn parse(record: &Record<'_>) -> Result<RowContent, Problem> {
    let format = RowFormat::PromptCompletion;
    Ok(RowContent::PromptCompletion {
        prompt: record.text("prompt", format)?,
        completion: record.text("completion", format)?,
    })
}
