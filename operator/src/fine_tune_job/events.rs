//! Which Events a change of status is worth. Pure: the difference of two statuses, so nothing is said twice.

use finetune_crds::FineTuneJobStatus;
use finetune_crds::names::condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

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
            });
        }
    }
    let before = before
        .map(|status| status.attempts.as_slice())
        .unwrap_or_default();
    for attempt in &after.attempts {
        let known = before.iter().find(|known| known.pod == attempt.pod);
        if known.is_none() && attempt.reason.is_none() {
            events.push(NewEvent {
                warning: false,
                reason: "Started".to_owned(),
                action: "Train",
                note: format!("the trainer runs in pod {}", attempt.pod),
            });
        }
        if let Some(reason) = &attempt.reason
            && reason != "Succeeded"
            && known.is_none_or(|known| known.reason.is_none())
        {
            events.push(NewEvent {
                warning: true,
                reason: "AttemptEnded".to_owned(),
                action: "Train",
                note: format!("pod {} ended: {reason}", attempt.pod),
            });
        }
    }
    events
}

/// Whether a condition's change is worth an Event, and of what kind.
fn worth(condition: &Condition) -> Option<(bool, &'static str)> {
    match (condition.type_.as_str(), condition.status.as_str()) {
        (condition::DATASET_VALID, "True") => Some((false, "Prepare")),
        // `Failed` says the same, a moment later.
        (condition::PODS_RUNNING, "False")
            if !["Starting", "Suspended"].contains(&condition.reason.as_str()) =>
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
        failed.failed("InvalidInput", "train.jsonl line 17: …");
        let events = between(None, &failed.status);
        assert_eq!(events.len(), 1);
        assert_eq!(
            (events[0].warning, events[0].reason.as_str()),
            (true, "InvalidInput")
        );
    }
}
