//! Which Events a change of status is worth. Pure: the difference of two statuses, so nothing is said twice.

use finetune_crds::FineTuneJobStatus;
use finetune_crds::names::condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::reasons::{self, LOST};
use super::status::condition_of;

/// An Event to write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewEvent {
    /// Whether somebody should look.
    pub warning: bool,
    /// One word.
    pub reason: String,
    /// What the controller was doing.
    pub action: &'static str,
    /// The message.
    pub note: String,
    /// The pod that it is about. Events about two pods are not folded into one.
    pub pod: Option<String>,
}

/// The Events for the change from `before` to `after`.
pub fn between(before: Option<&FineTuneJobStatus>, after: &FineTuneJobStatus) -> Vec<NewEvent> {
    let mut events = Vec::new();
    for condition in &after.conditions {
        let known = condition_of(before, &condition.type_);
        let same = known.is_some_and(|known| {
            known.status == condition.status && known.reason == condition.reason
        });
        if !same && let Some((warning, action)) = worth(condition) {
            events.push(NewEvent {
                warning,
                reason: condition.reason.clone(),
                action,
                note: condition.message.chars().take(1000).collect(),
                pod: None,
            });
        }
    }
    let before = before
        .map(|status| status.attempts.as_slice())
        .unwrap_or_default();
    for attempt in &after.attempts {
        let known = before.iter().find(|known| known.pod == attempt.pod);
        let lost = attempt.reason.as_deref() == Some(LOST);
        let (warning, reason, note) = match known {
            None if attempt.reason.is_none() => (false, "Started", "the trainer runs in pod"),
            Some(known) if lost && known.reason.is_none() => {
                (true, LOST, "this pod has gone without a word:")
            }
            _ => continue,
        };
        events.push(NewEvent {
            warning,
            reason: reason.to_owned(),
            action: "Train",
            note: format!("{note} {}", attempt.pod),
            pod: Some(attempt.pod.clone()),
        });
    }
    events
}

/// Whether a condition's change is worth an Event, and of what kind.
fn worth(condition: &Condition) -> Option<(bool, &'static str)> {
    match (condition.type_.as_str(), condition.status.as_str()) {
        (condition::DATASET_VALID, "True") => Some((false, "Prepare")),
        (condition::PODS_RUNNING, "False")
            if ![
                reasons::STARTING,
                reasons::ENDING,
                reasons::SUSPENDED,
                reasons::LEFTOVER,
            ]
            .contains(&condition.reason.as_str()) =>
        {
            Some((true, "Run"))
        }
        (condition::PUBLISHED, "True") => Some((false, "Publish")),
        (condition::PUBLISHED, "False") if condition.reason != "DryRun" => Some((true, "Publish")),
        (condition::COMPLETE, "True") => Some((false, "Complete")),
        (condition::FAILED, "True") => Some((true, "Fail")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::status::Draft;
    use super::*;

    fn draft(before: Option<&FineTuneJobStatus>) -> Draft {
        Draft::new(before, Some(1), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_cause_is_told_once_and_again_only_when_it_changes() {
        let mut first = draft(None);
        first.condition(
            condition::PODS_RUNNING,
            "False",
            "ImagePullBackOff",
            "no such image",
        );
        let events = between(None, &first.status);
        assert_eq!(events.len(), 1);
        assert!(events[0].warning && events[0].note == "no such image");
        let mut second = draft(Some(&first.status));
        second.condition(
            condition::PODS_RUNNING,
            "False",
            "ImagePullBackOff",
            "no such image, still",
        );
        assert_eq!(between(Some(&first.status), &second.status), []);
        let mut third = draft(Some(&second.status));
        third.condition(condition::PODS_RUNNING, "False", "Unschedulable", "no node");
        assert_eq!(between(Some(&second.status), &third.status).len(), 1);
    }

    #[test]
    fn a_failure_is_a_warning_with_its_cause() {
        let mut failed = draft(None);
        failed.condition(
            condition::PODS_RUNNING,
            "False",
            reasons::ENDING,
            "about to end",
        );
        failed.failed("InvalidInput", "train.jsonl line 17: …");
        let events = between(None, &failed.status);
        assert_eq!(events.len(), 1);
        assert_eq!(
            (events[0].warning, events[0].reason.as_str()),
            (true, "InvalidInput")
        );
    }

    #[test]
    fn each_pod_is_told_of_once_and_a_lost_one_again() {
        let with = |reason: Option<&str>| {
            let mut draft = draft(None);
            draft
                .status
                .attempts
                .push(finetune_crds::fine_tune_job::Attempt {
                    pod: "pod-1".into(),
                    reason: reason.map(str::to_owned),
                    ..Default::default()
                });
            draft.status
        };
        let started = between(None, &with(None));
        assert_eq!(started[0].pod.as_deref(), Some("pod-1"));
        assert_eq!(between(Some(&with(None)), &with(None)), []);
        assert!(between(Some(&with(None)), &with(Some(LOST)))[0].warning);
        assert_eq!(between(Some(&with(Some(LOST))), &with(Some(LOST))), []);
    }
}
