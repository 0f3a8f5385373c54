//! What deserves a look in the numbers of a report, in words. Pure.

use finetune_crds::fine_tune_job::Dataset;

use super::report::Report;

/// What deserves a look.
pub(super) fn of(report: &Report, dataset: &Dataset) -> Vec<String> {
    let data = &report.dataset;
    let mut warnings = Vec::new();
    let wanted_length = dataset.max_sequence_length;
    if wanted_length > report.max_length as i64 {
        warnings.push(format!(
            "dataset.maxSequenceLength is {wanted_length}, but the base was made for {}: rows are cut there",
            report.max_length
        ));
    }
    let holds_back = dataset
        .validation
        .as_ref()
        .is_some_and(|validation| validation.fraction.is_some());
    if holds_back && data.validation_rows == 0 {
        warnings.push(
            "no row could be held back for validation: give dataset.validation.sources".to_owned(),
        );
    }
    if data.truncated_rows > 0 {
        warnings.push(format!(
            "{} of {} rows are longer than {} tokens and are cut on the right, so that they do not teach how to end",
            data.truncated_rows, data.rows, report.max_length
        ));
    }
    if report.rows_without_loss > 0 {
        warnings.push(format!(
            "{} rows have no token to train on and are left out",
            report.rows_without_loss
        ));
    }
    if report.rows_without_end > 0 {
        warnings.push(format!(
            "{} of {} rows do not end with a token that ends an answer of this model: it may not learn to stop",
            report.rows_without_end, data.rows
        ));
    }
    if data.duplicate_rows > 0 {
        warnings.push(format!(
            "{} rows repeat an earlier one and count for more",
            data.duplicate_rows
        ));
    }
    if report.leaked_rows > 0 {
        warnings.push(format!(
            "{} validation rows are in the training data too: the validation loss will look better than it is",
            report.leaked_rows
        ));
    }
    warnings.extend(oddities(report));
    warnings
}

/// What is odd and may be meant.
fn oddities(report: &Report) -> Vec<String> {
    let data = &report.dataset;
    let mut warnings = Vec::new();
    let mut tell = |count: usize, what: &str| {
        if count > 0 {
            warnings.push(format!("{count} {what}"));
        }
    };
    tell(
        report.near_duplicate_rows,
        "validation rows are nearly the same as one to train on: the validation loss will look better than it is",
    );
    tell(
        report.empty_completions,
        "rows have an empty answer, which teaches to say nothing",
    );
    tell(
        report.rows_with_lost_characters,
        "rows hold U+FFFD, which stands for a character that was lost: read the original with its own encoding",
    );
    tell(
        report.files_with_byte_order_mark,
        "files begin with a byte order mark, which is skipped",
    );
    tell(
        report.files_with_carriage_returns,
        "files have lines that end in CR LF, as Windows writes them; only LF counts",
    );
    if report.replay_rows_wanted > data.replay_rows as usize {
        warnings.push(format!(
            "dataset.replay asks for {} rows and its files hold {} that fit: all are taken, once",
            report.replay_rows_wanted, data.replay_rows
        ));
    }
    warnings
}
