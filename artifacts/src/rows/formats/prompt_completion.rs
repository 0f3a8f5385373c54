//! `{"prompt": …, "completion": …}`: the completion is learnt.

use super::RowFormat;
use crate::rows::content::RowContent;
use crate::rows::fault::Problem;
use crate::rows::record::Record;

pub(super) fn parse(record: &Record<'_>) -> Result<RowContent, Problem> {
    let format = RowFormat::PromptCompletion;
    Ok(RowContent::PromptCompletion {
        prompt: record.text("prompt", format)?,
        completion: record.text("completion", format)?,
    })
}
