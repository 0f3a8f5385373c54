//! `{"text": …}`: every token is learnt.

use crate::rows::content::RowContent;
use crate::rows::fault::Problem;
use crate::rows::record::Record;
use crate::rows::row_format::RowFormat;

pub(super) fn parse(record: &Record<'_>) -> Result<RowContent, Problem> {
    record.text("text", RowFormat::Text).map(RowContent::Text)
}
