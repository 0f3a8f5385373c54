//! How a status is written: conditions whose time changes only when they flip, a history of ten. Pure.

use finetune_crds::AdapterStatus;
use finetune_crds::adapter::{AdapterPhase, AdapterVersion, HistoryEntry};
use finetune_crds::names::condition;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The most characters of a message.
const LONGEST_MESSAGE: usize = 1500;
/// Versions that the history keeps.
const LONGEST_HISTORY: usize = 10;
/// What the history calls a version that answered.
const READY: &str = "Ready";
/// What the history calls a version that was refused.
const FAILED: &str = "Failed";

/// A status being changed, with what every change needs: the generation it speaks of, and the time.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The status so far.
    pub status: AdapterStatus,
    generation: Option<i64>,
    now: Timestamp,
}

/// A condition's status.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Is {
    /// `True`.
    True,
    /// `False`.
    False,
    /// `Unknown`.
    Unknown,
}

impl Is {
    const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl Draft {
    /// Starts from what is stored.
    pub fn new(stored: Option<&AdapterStatus>, generation: Option<i64>, now: Timestamp) -> Self {
        let mut status = stored.cloned().unwrap_or_default();
        status.observed_generation = generation;
        Self {
            status,
            generation,
            now,
        }
    }

    /// Sets a condition.
    pub fn condition(&mut self, type_: &str, is: Is, reason: &str, message: &str) {
        let mut condition = Condition {
            type_: type_.to_owned(),
            status: is.as_str().to_owned(),
            reason: reason.to_owned(),
            message: message.chars().take(LONGEST_MESSAGE).collect(),
            observed_generation: self.generation,
            last_transition_time: Time(self.now),
        };
        match self
            .status
            .conditions
            .iter_mut()
            .find(|known| known.type_ == type_)
        {
            Some(known) => {
                if known.status == condition.status {
                    condition.last_transition_time = known.last_transition_time.clone();
                }
                *known = condition;
            }
            None => self.status.conditions.push(condition),
        }
    }

    /// Sets the phase and what follows from it: Ready, and the two conditions that kstatus reads.
    ///
    /// `stalled` means that it does not get better until somebody changes something.
    pub fn phase(&mut self, phase: AdapterPhase, stalled: bool, reason: &str, message: &str) {
        self.status.phase = Some(phase);
        let ready = phase == AdapterPhase::Ready;
        self.condition(
            condition::READY,
            if ready { Is::True } else { Is::False },
            reason,
            message,
        );
        let busy = !ready && !stalled;
        self.condition(
            condition::RECONCILING,
            if busy { Is::True } else { Is::False },
            reason,
            message,
        );
        self.condition(
            condition::STALLED,
            if stalled { Is::True } else { Is::False },
            reason,
            message,
        );
    }

    /// The candidate answers from now on.
    pub fn promote(&mut self, version: &AdapterVersion) {
        self.status.stable = Some(version.clone());
        self.status.candidate = None;
        self.remember(&version.digest, READY, None);
    }

    /// The candidate was refused.
    pub fn refuse(&mut self, version: &AdapterVersion, message: &str) {
        self.status.candidate = None;
        self.remember(&version.digest, FAILED, Some(message));
    }

    /// A digest that was refused gets another chance.
    pub fn forgive(&mut self, digest: &str) {
        self.status
            .history
            .retain(|entry| entry.digest != digest || entry.result != FAILED);
    }

    fn remember(&mut self, digest: &str, result: &str, message: Option<&str>) {
        self.status.history.retain(|entry| entry.digest != digest);
        let entry = HistoryEntry {
            digest: digest.to_owned(),
            result: result.to_owned(),
            message: message.map(|message| message.chars().take(LONGEST_MESSAGE).collect()),
            time: Some(Time(self.now)),
        };
        self.status.history.insert(0, entry);
        self.status.history.truncate(LONGEST_HISTORY);
    }
}

/// Why a digest was refused, if it was and nobody has asked to try it again.
pub fn refusal<'a>(status: &'a AdapterStatus, digest: &str) -> Option<&'a str> {
    let mut entries = status.history.iter();
    let entry = entries.find(|entry| entry.digest == digest && entry.result == FAILED)?;
    Some(entry.message.as_deref().unwrap_or("it was refused"))
}

/// The condition of a type.
pub fn condition_of<'a>(status: Option<&'a AdapterStatus>, type_: &str) -> Option<&'a Condition> {
    status?.conditions.iter().find(|known| known.type_ == type_)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference_deployment::fixtures::{at, version};

    #[test]
    fn a_conditions_time_changes_only_when_it_flips() {
        let mut draft = Draft::new(None, Some(1), at(1));
        draft.condition("X", Is::False, "A", "a");
        let mut later = Draft::new(Some(&draft.status), Some(1), at(2));
        later.condition("X", Is::False, "B", "b");
        let condition = condition_of(Some(&later.status), "X").unwrap();
        assert_eq!(
            (condition.last_transition_time.0, condition.reason.as_str()),
            (at(1), "B")
        );
        later.condition("X", Is::True, "B", "b");
        assert_eq!(
            condition_of(Some(&later.status), "X")
                .unwrap()
                .last_transition_time
                .0,
            at(2)
        );
    }

    #[test]
    fn the_history_keeps_ten_and_each_digest_once() {
        let mut draft = Draft::new(None, None, at(1));
        for letter in ('a'..='f').chain('0'..='9') {
            draft.promote(&version("tone", letter));
        }
        assert_eq!(draft.status.history.len(), 10);
        draft.refuse(&version("tone", '9'), "why");
        assert_eq!(draft.status.history.len(), 10);
        assert_eq!(
            refusal(&draft.status, &version("tone", '9').digest),
            Some("why")
        );
        draft.forgive(&version("tone", '9').digest);
        assert_eq!(refusal(&draft.status, &version("tone", '9').digest), None);
    }
}
