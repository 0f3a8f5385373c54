//! Which Events a change of status is worth. Pure: the difference of two statuses, so nothing is said twice.

use finetune_crds::AdapterStatus;
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
pub fn between(before: Option<&AdapterStatus>, after: &AdapterStatus) -> Vec<NewEvent> {
    let mut events = Vec::new();
    if let Some(candidate) = &after.candidate
        && before.and_then(|status| status.candidate.as_ref()) != Some(candidate)
    {
        events.push(normal(
            "RollingOut",
            format!("version {} is on its way", candidate.version),
        ));
    }
    if let Some(stable) = &after.stable
        && before.and_then(|status| status.stable.as_ref()) != Some(stable)
    {
        events.push(normal(
            "Promoted",
            format!(
                "version {} is loaded and tested on every pod",
                stable.version
            ),
        ));
    }
    for condition in &after.conditions {
        let known = condition_of(before, &condition.type_);
        let same = known.is_some_and(|known| {
            known.status == condition.status && known.reason == condition.reason
        });
        if !same && let Some(warning) = worth(condition) {
            events.push(NewEvent {
                warning,
                reason: condition.reason.clone(),
                action: "Serve",
                note: condition.message.chars().take(1000).collect(),
            });
        }
    }
    events
}

fn normal(reason: &str, note: String) -> NewEvent {
    NewEvent {
        warning: false,
        reason: reason.to_owned(),
        action: "RollOut",
        note,
    }
}

/// Whether a condition's change is worth an Event, and whether somebody should look.
fn worth(condition: &Condition) -> Option<bool> {
    match (condition.type_.as_str(), condition.status.as_str()) {
        (condition::READY, "True") => Some(false),
        // Ready is False with a reason that says all: a fault, a refusal, or a pod that fails.
        (condition::READY, "False") => {
            let passing = [
                "Verifying",
                "Loading",
                "Switching",
                "NotPublished",
                "NoPods",
                "Terminating",
            ];
            (!passing.contains(&condition.reason.as_str())).then_some(true)
        }
        // The download goes on; a missing Secret or bucket may still come.
        (condition::VERIFIED, "False") if condition.reason == "CannotFetch" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::{Draft, Is};
    use super::*;
    use crate::inference_deployment::fixtures::{at, version};
    use finetune_crds::adapter::AdapterPhase;

    #[test]
    fn a_rollout_is_told_in_three_events_and_each_once() {
        let mut started = Draft::new(None, None, at(1));
        started.status.candidate = Some(version("tone", 'a'));
        started.phase(AdapterPhase::Verifying, false, "Verifying", "");
        let reasons = |before: Option<&AdapterStatus>, after: &AdapterStatus| -> Vec<String> {
            between(before, after)
                .into_iter()
                .map(|event| event.reason)
                .collect()
        };
        assert_eq!(reasons(None, &started.status), ["RollingOut"]);
        let mut ended = started.clone();
        ended.promote(&version("tone", 'a'));
        ended.phase(AdapterPhase::Ready, false, "Serving", "");
        assert_eq!(
            reasons(Some(&started.status), &ended.status),
            ["Promoted", "Serving"]
        );
        assert!(reasons(Some(&ended.status), &ended.status).is_empty());
    }

    #[test]
    fn a_download_that_fails_is_a_warning_with_its_cause() {
        let mut draft = Draft::new(None, None, at(1));
        draft.condition(
            condition::VERIFIED,
            Is::False,
            "CannotFetch",
            "no Secret models-s3",
        );
        let events = between(None, &draft.status);
        assert!(events[0].warning && events[0].note.contains("models-s3"));
    }
}
