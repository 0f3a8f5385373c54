//! The rules of `spec.dataset`.

use finetune_artifacts::rows::RowFormat;
use finetune_crds::fine_tune_job::{ChatTemplateUse, Columns, Dataset, Format, Source, Validation};

use super::{Fault, check_uri};

pub(super) fn check_dataset(dataset: &Dataset, faults: &mut Vec<Fault>) {
    check_sources("spec.dataset.train", &dataset.train, faults);
    if let Some(validation) = &dataset.validation {
        check_validation(validation, faults);
    }
    if let Some(replay) = &dataset.replay {
        check_sources("spec.dataset.replay.sources", &replay.sources, faults);
    }
    if let Some(columns) = &dataset.columns {
        check_columns(columns, dataset.format, faults);
    }
    if dataset.append_end_of_sequence.is_some() && dataset.format != Format::Text {
        faults.push(Fault::new(
            "spec.dataset.appendEndOfSequence",
            "applies to format Text only: set format: Text or remove it",
        ));
    }
    if dataset.chat_template == ChatTemplateUse::Never
        && matches!(dataset.format, Format::Messages | Format::ShareGPT)
    {
        faults.push(Fault::new(
            "spec.dataset.chatTemplate",
            "is Never, but conversations become a text by the base's chat template alone: remove it",
        ));
    }
}

fn check_sources(field: &str, sources: &[Source], faults: &mut Vec<Fault>) {
    for (index, source) in sources.iter().enumerate() {
        check_uri(&format!("{field}[{index}].uri"), &source.uri, faults);
    }
}

fn check_validation(validation: &Validation, faults: &mut Vec<Fault>) {
    let field = "spec.dataset.validation";
    if let Some(sources) = &validation.sources {
        check_sources(&format!("{field}.sources"), sources, faults);
    }
    match (validation.fraction, &validation.sources) {
        (Some(_), Some(_)) => faults.push(Fault::new(
            field,
            "has both fraction and sources, expected exactly one: remove one of them",
        )),
        (None, None) => faults.push(Fault::new(
            field,
            "has neither fraction nor sources, expected exactly one: add one, or remove validation",
        )),
        (Some(_), None) | (None, Some(_)) => {}
    }
}

fn check_columns(columns: &Columns, format: Format, faults: &mut Vec<Fault>) {
    let named: Vec<&str> = columns.named().map(|(name, _)| name).collect();
    let named = named.join(", ");
    match RowFormat::wanted(format) {
        Some(format) if !format.has(columns) => faults.push(Fault::new(
            "spec.dataset.columns",
            format!("names {named}, expected columns of format {format}: remove the others, or set the format that has them"),
        )),
        None if !RowFormat::ALL.iter().any(|format| format.has(columns)) => faults.push(Fault::new(
            "spec.dataset.columns",
            format!("names {named}, which no format has together: name the columns of one format"),
        )),
        Some(_) | None => {}
    }
}
