//! The next step of an Adapter's rollout, from what was found. Pure: no clock, no client.
//!
//! A version goes candidate -> stable. As a candidate it is loaded and tested on every pod while the old version answers;
//! as the stable version the alias leads to it and pods are not ready without it. The status is where this is recorded:
//! the controller of each Deployment tells its agents what stands there.

use std::time::Duration;

use finetune_crds::adapter::{AdapterPhase, AdapterVersion};
use finetune_crds::names::{annotation, condition};
use finetune_crds::{Adapter, AdapterStatus};
use jiff::Timestamp;
use kube::ResourceExt;

use super::seen::Seen;
use super::standing::Standing;
use super::status::{self, Draft, Is};
use super::validate::{BaseCheck, Fault, FaultKind, Validated};

/// While something is on its way.
const SOON: Duration = Duration::from_secs(2);
/// While all is well, or nothing can be done: watches tell of most changes, this finds the rest.
const LATER: Duration = Duration::from_secs(15);

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The status to store.
    pub status: AdapterStatus,
    /// Whether the request to try once more was heard, and is to be taken away.
    pub drop_retry: bool,
    /// When to look again.
    pub next_check: Duration,
}

/// Decides.
pub fn plan(adapter: &Adapter, validated: &Validated, seen: &Seen, now: Timestamp) -> Plan {
    let mut draft = Draft::new(adapter.status.as_ref(), adapter.metadata.generation, now);
    if adapter.metadata.deletion_timestamp.is_some() {
        return end(draft);
    }
    report_faults(&mut draft, validated);
    let retry = adapter.annotations().get(annotation::RETRY);
    match (validated.faults.first(), &validated.wanted) {
        (Some(fault), _) => blocked(draft, adapter, fault, seen),
        (None, None) => unpublished(draft),
        (None, Some(wanted)) => {
            let is_retry = retry == Some(&wanted.digest);
            if is_retry {
                draft.forgive(&wanted.digest);
            }
            Plan {
                drop_retry: is_retry,
                ..roll_out(draft, adapter, wanted, seen)
            }
        }
    }
}

/// Being deleted, and still there for somebody else's finalizer: agents let go of it, whatever becomes of the object.
fn end(mut draft: Draft) -> Plan {
    let message = "pods answer their last requests and unload it";
    draft.status.candidate = None;
    forget_counts(&mut draft);
    draft.phase(AdapterPhase::Terminating, false, "Terminating", message);
    Plan {
        status: draft.status,
        next_check: LATER,
        ..Plan::default()
    }
}

/// The two conditions that say what was compared.
fn report_faults(draft: &mut Draft, validated: &Validated) {
    match validated
        .faults
        .iter()
        .find(|fault| fault.kind == FaultKind::Conflict)
    {
        Some(fault) => draft.condition(condition::CONFLICT, Is::True, fault.reason, &fault.message),
        None => draft.condition(
            condition::CONFLICT,
            Is::False,
            "NoConflict",
            "nobody else claims the alias",
        ),
    }
    let (is, reason, message) = match &validated.base {
        BaseCheck::Same => (
            Is::True,
            "Same",
            "every Deployment declares the base that the adapter was trained on",
        ),
        BaseCheck::Unchecked(why) => (Is::Unknown, "Unchecked", why.as_str()),
        BaseCheck::Differs(why) => (Is::False, "BaseModelDiffers", why.as_str()),
    };
    draft.condition(condition::BASE_MODEL_CHECKED, is, reason, message);
}

/// Something stands in the way: no new version is tried. A stable one goes on where it can.
fn blocked(mut draft: Draft, adapter: &Adapter, fault: &Fault, seen: &Seen) -> Plan {
    draft.status.candidate = None;
    let answering = match draft.status.stable.clone() {
        Some(stable) => {
            let standing = Standing::of(&stable, adapter, seen);
            count(&mut draft, &standing);
            standing.answering > 0
        }
        None => {
            forget_counts(&mut draft);
            false
        }
    };
    let phase = match (answering, fault.kind) {
        (true, _) => AdapterPhase::Degraded,
        (false, FaultKind::Base) => AdapterPhase::Failed,
        (false, _) => AdapterPhase::Pending,
    };
    unknown(&mut draft, fault.reason, &fault.message);
    draft.phase(
        phase,
        fault.kind != FaultKind::Absent,
        fault.reason,
        &fault.message,
    );
    Plan {
        status: draft.status,
        next_check: LATER,
        ..Plan::default()
    }
}

fn unpublished(mut draft: Draft) -> Plan {
    let message = "no version yet; a FineTuneJob whose spec.output.adapter.name is this Adapter's name publishes one";
    draft.status.candidate = None;
    forget_counts(&mut draft);
    unknown(&mut draft, "NotPublished", message);
    draft.phase(AdapterPhase::Pending, false, "NotPublished", message);
    Plan {
        status: draft.status,
        next_check: LATER,
        ..Plan::default()
    }
}

fn roll_out(mut draft: Draft, adapter: &Adapter, wanted: &AdapterVersion, seen: &Seen) -> Plan {
    let standing = Standing::of(wanted, adapter, seen);
    count(&mut draft, &standing);
    let is_stable = draft
        .status
        .stable
        .as_ref()
        .is_some_and(|stable| stable.digest == wanted.digest);
    let next_check = if is_stable {
        draft.status.candidate = None;
        serve(&mut draft, wanted, &standing)
    } else if let Some(why) = status::refusal(&draft.status, &wanted.digest).map(str::to_owned) {
        draft.status.candidate = None;
        stay_refused(&mut draft, wanted, &why);
        LATER
    } else {
        let is_known = draft.status.candidate.as_ref() == Some(wanted);
        draft.status.candidate = Some(wanted.clone());
        try_candidate(&mut draft, wanted, &standing, is_known)
    };
    Plan {
        status: draft.status,
        next_check,
        ..Plan::default()
    }
}

/// `is_known`: agents were told of this candidate. What they say of it before is of an earlier try.
fn try_candidate(
    draft: &mut Draft,
    wanted: &AdapterVersion,
    standing: &Standing,
    is_known: bool,
) -> Duration {
    if let Some(refusal) = standing.refusal.as_ref().filter(|_| is_known) {
        let message = &refusal.message;
        draft.refuse(wanted, message);
        let verified = if refusal.verified {
            Is::True
        } else {
            Is::False
        };
        draft.condition(
            condition::VERIFIED,
            verified,
            if refusal.verified {
                "Verified"
            } else {
                "Refused"
            },
            message,
        );
        stay_refused(draft, wanted, message);
        return LATER;
    }
    if standing.is_loaded() {
        draft.promote(wanted);
        return serve(draft, wanted, standing);
    }
    report_progress(draft, standing);
    let (phase, reason) = if standing.is_verified() {
        (AdapterPhase::Loading, "Loading")
    } else {
        (AdapterPhase::Verifying, "Verifying")
    };
    let old = match &draft.status.stable {
        Some(stable) => format!("; {} answers meanwhile", stable.version),
        None => String::new(),
    };
    let message = format!(
        "{} of {} pods hold {}: {}{old}",
        standing.loaded,
        standing.desired,
        wanted.version,
        standing.why()
    );
    draft.phase(phase, false, reason, &message);
    SOON
}

fn stay_refused(draft: &mut Draft, wanted: &AdapterVersion, why: &str) {
    let known = draft
        .status
        .conditions
        .iter()
        .find(|known| known.type_ == condition::VERIFIED);
    if known.is_none_or(|known| known.status == "Unknown") {
        draft.condition(
            condition::VERIFIED,
            Is::Unknown,
            "NotTried",
            "it was refused earlier and is not tried again",
        );
    }
    draft.condition(condition::LOADED, Is::False, "Refused", why);
    let old = match &draft.status.stable {
        Some(stable) => format!("; {} goes on answering", stable.version),
        None => String::new(),
    };
    let message = format!(
        "version {} was refused: {why}{old}; publish another version, or set the annotation {}={} to try once more",
        wanted.version,
        annotation::RETRY,
        wanted.digest
    );
    draft.phase(AdapterPhase::Failed, true, "Refused", &message);
}

/// The wanted version is the stable one.
fn serve(draft: &mut Draft, stable: &AdapterVersion, standing: &Standing) -> Duration {
    report_progress(draft, standing);
    let (loaded, desired) = (standing.loaded, standing.desired);
    if standing.is_answering() {
        let message = format!("{} answers on all {desired} pods", stable.version);
        draft.phase(AdapterPhase::Ready, false, "Serving", &message);
        return LATER;
    }
    if desired == 0 && standing.waiting.is_none() {
        draft.phase(
            AdapterPhase::Pending,
            false,
            "NoPods",
            "its Deployments are scaled to zero",
        );
        return LATER;
    }
    if standing.is_loaded() {
        let message = format!(
            "all {desired} pods hold {}, clients are being led to it",
            stable.version
        );
        draft.phase(AdapterPhase::Loading, false, "Switching", &message);
        return SOON;
    }
    let message = format!(
        "{loaded} of {desired} pods hold {}: {}",
        stable.version,
        standing.why()
    );
    let phase = if standing.answering > 0 {
        AdapterPhase::Degraded
    } else {
        AdapterPhase::Loading
    };
    draft.phase(
        phase,
        false,
        if standing.is_failing() {
            "Degraded"
        } else {
            "Loading"
        },
        &message,
    );
    SOON
}

/// Verified and Loaded, while nothing is final.
fn report_progress(draft: &mut Draft, standing: &Standing) {
    let (verified, loaded, desired) = (standing.verified, standing.loaded, standing.desired);
    let why = standing.why();
    if standing.is_verified() {
        let message = "manifest, hashes and weights are as they were published";
        draft.condition(condition::VERIFIED, Is::True, "Verified", message);
    } else {
        let message = format!("checked on {verified} of {desired} pods: {why}");
        let (is, reason) = if verified == 0 && standing.is_failing() {
            (Is::False, "CannotFetch")
        } else {
            (Is::Unknown, "Verifying")
        };
        draft.condition(condition::VERIFIED, is, reason, &message);
    }
    if standing.is_loaded() {
        let message = format!("{desired} pods hold it and answer as golden.json says");
        draft.condition(condition::LOADED, Is::True, "Loaded", &message);
    } else {
        let message = format!("loaded on {loaded} of {desired} pods: {why}");
        draft.condition(condition::LOADED, Is::Unknown, "Loading", &message);
    }
}

fn unknown(draft: &mut Draft, reason: &str, message: &str) {
    draft.condition(condition::VERIFIED, Is::Unknown, reason, message);
    draft.condition(condition::LOADED, Is::Unknown, reason, message);
}

fn count(draft: &mut Draft, standing: &Standing) {
    draft.status.loaded = Some(standing.column());
    draft.status.serving.clone_from(&standing.serving);
}

fn forget_counts(draft: &mut Draft) {
    draft.status.loaded = None;
    draft.status.serving.clear();
}
