//! What prepare found odd, and which image is older than the other. Pure.
//!
//! None of it stops a job: its user may mean it so. It is said once in an Event, and stays in the condition DatasetValid.

use std::cmp::Ordering;

use finetune_crds::contract::Outcome;

use super::super::events::NewEvent;
use crate::settings::OperatorSettings;

/// The version of this operator; images of one release have one version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// All warnings in one line; `None` where there are none.
pub(super) fn listed(outcome: &Outcome, settings: &OperatorSettings) -> Option<String> {
    let mut warnings = outcome.warnings.clone();
    warnings.extend(older_image(
        outcome.version.as_deref(),
        VERSION,
        &settings.trainer_image,
    ));
    (!warnings.is_empty()).then(|| warnings.join("; "))
}

/// The one Event that tells of them.
pub(super) fn event(outcome: &Outcome, settings: &OperatorSettings) -> Option<NewEvent> {
    let note = listed(outcome, settings)?;
    Some(NewEvent {
        warning: true,
        reason: "DatasetWarnings".to_owned(),
        action: "Prepare",
        note: note.chars().take(1000).collect(),
        pod: None,
    })
}

/// Which of the two images is older, where the trainer said its version and it is another one.
fn older_image(trainer: Option<&str>, operator: &str, image: &str) -> Option<String> {
    let trainer = trainer?;
    let (older, newer) = match compare(trainer, operator) {
        Ordering::Equal => return None,
        Ordering::Less => (
            format!("the trainer image {image} is {trainer}"),
            format!(
                "the operator {operator}: fields that the trainer does not know do nothing; update the trainer image"
            ),
        ),
        Ordering::Greater => (
            format!("the operator is {operator}"),
            format!("the trainer image {image} {trainer}: update the operator"),
        ),
    };
    Some(format!("{older}, older than {newer}"))
}

/// Compares two versions by their numbers; texts that are none count as nothing.
fn compare(left: &str, right: &str) -> Ordering {
    let numbers = |version: &str| -> Vec<u64> {
        version
            .split(['-', '+'])
            .next()
            .unwrap_or_default()
            .split('.')
            .map(|part| part.parse().unwrap_or_default())
            .collect()
    };
    numbers(left).cmp(&numbers(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_of_two_images_is_named() {
        assert_eq!(older_image(Some("0.1.0"), "0.1.0", "trainer:1"), None);
        assert_eq!(older_image(None, "0.1.0", "trainer:1"), None);
        let behind = older_image(Some("0.9.3"), "0.10.0", "trainer:1").unwrap();
        assert!(
            behind.starts_with(
                "the trainer image trainer:1 is 0.9.3, older than the operator 0.10.0"
            ),
            "{behind}"
        );
        let ahead = older_image(Some("1.0.0"), "0.10.0", "trainer:1").unwrap();
        assert!(
            ahead.starts_with(
                "the operator is 0.10.0, older than the trainer image trainer:1 1.0.0"
            ),
            "{ahead}"
        );
    }
}
