//! `{"text": …}`: every token is learnt.

use super::RowFormat;
use crate::rows::content::RowContent;
use crate::rows::fault::Problem;
use crate::rows::record::Record;

pub(super) fn parse(record: &Record<'_>) -> Result<RowContent, Problem> {
    record.text("text", RowFormat::Text).map(RowContent::Text)
}
