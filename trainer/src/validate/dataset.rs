//! The rules of `spec.dataset`.

use finetune_artifacts::rows::RowFormat;
use finetune_crds::fine_tune_job::{ChatTemplateUse, Columns, Dataset, Format, Replay};

use super::{Fault, check_range, check_uri};

pub(super) fn check_dataset(dataset: &Dataset, faults: &mut Vec<Fault>) {
    if !(1..=64).contains(&dataset.train.len()) {
        let count = dataset.train.len();
        faults.push(Fault::new(
            "spec.dataset.train",
            format!("has {count} sources, expected 1 to 64"),
        ));
    }
    for (index, source) in dataset.train.iter().enumerate() {
        check_uri(
            &format!("spec.dataset.train[{index}].uri"),
            &source.uri,
            faults,
        );
    }
    if let Some(validation) = &dataset.validation {
        let field = "spec.dataset.validation";
        match (validation.fraction, &validation.sources) {
            (Some(fraction), None) => {
                check_range(&format!("{field}.fraction"), fraction, 0.001..=0.5, faults);
            }
            (None, Some(sources)) if (1..=64).contains(&sources.len()) => {
                for (index, source) in sources.iter().enumerate() {
                    check_uri(&format!("{field}.sources[{index}].uri"), &source.uri, faults);
                }
            }
            (None, Some(sources)) => {
                let count = sources.len();
                faults.push(Fault::new(&format!("{field}.sources"), format!("has {count} sources, expected 1 to 64")));
            }
            (Some(_), Some(_)) => faults.push(Fault::new(
                field,
                "has both fraction and sources, expected exactly one: remove one of them",
            )),
            (None, None) => faults.push(Fault::new(
                field,
                "has neither fraction nor sources, expected exactly one: add one, or remove validation",
            )),
        }
        if let Some(every_steps) = validation.every_steps {
            check_range(
                &format!("{field}.everySteps"),
                every_steps,
                1..=1_000_000_000,
                faults,
            );
        }
    }
    if let Some(replay) = &dataset.replay {
        check_replay(replay, faults);
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
    check_range(
        "spec.dataset.maxSequenceLength",
        dataset.max_sequence_length,
        2..=1_048_576,
        faults,
    );
}

fn check_replay(replay: &Replay, faults: &mut Vec<Fault>) {
    let field = "spec.dataset.replay";
    if !(1..=64).contains(&replay.sources.len()) {
        let count = replay.sources.len();
        faults.push(Fault::new(
            &format!("{field}.sources"),
            format!("has {count} sources, expected 1 to 64"),
        ));
    }
    for (index, source) in replay.sources.iter().enumerate() {
        check_uri(
            &format!("{field}.sources[{index}].uri"),
            &source.uri,
            faults,
        );
    }
    check_range(
        &format!("{field}.fraction"),
        replay.fraction,
        0.001..=0.5,
        faults,
    );
}

fn check_columns(columns: &Columns, format: Format, faults: &mut Vec<Fault>) {
    for (name, value) in columns.named() {
        if !(1..=256).contains(&value.chars().count()) {
            faults.push(Fault::new(
                &format!("spec.dataset.columns.{name}"),
                "is empty or longer than 256 characters, expected the name of a column",
            ));
        }
    }
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
