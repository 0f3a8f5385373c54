//! Hands the result to its Adapter, once. Pure.
//!
//! The condition Published ends it for good: a job that has published never writes its Adapter again, so it cannot undo
//! a newer version or bring back an Adapter that its user deleted.

use std::time::Duration;

use finetune_crds::adapter::{AdapterSource, Provenance};
use finetune_crds::fine_tune_job::JobPhase;
use finetune_crds::names::condition;
use finetune_crds::shared::BaseModelReference;
use jiff::Timestamp;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, Time};

use super::super::seen::{AdapterSeen, Seen};
use super::super::status::Draft;
use super::super::validate::Validated;
use super::{PROGRESS_INTERVAL, Plan};

/// How long an Adapter that cannot be read is left before it is looked at again.
const MALFORMED_CHECK: Duration = Duration::from_mins(1);

/// The fields of an Adapter that the job's controller owns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Publication {
    /// The Adapter's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The object that was seen, if there was one: an Adapter that was deleted or written meanwhile is looked at again.
    pub onto: Option<Onto>,
    /// The version.
    pub source: AdapterSource,
    /// The base that it was trained on.
    pub base_model: BaseModelReference,
    /// Where it comes from.
    pub provenance: Provenance,
}

/// The Adapter that was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Onto {
    /// Its UID.
    pub uid: String,
    /// Its version: two jobs that end together must not write over each other.
    pub resource_version: String,
    /// The record of the owners of its fields that is to be written first, if it is to be changed.
    pub owners: Option<Vec<ManagedFieldsEntry>>,
}

/// Whether the job that was created at `other`'s time is younger than the own one. Of two that were created in the same
/// second, all sides take the one with the greater UID for the younger.
pub fn is_younger(other: (Timestamp, &str), own: (Option<Timestamp>, &str)) -> bool {
    (Some(other.0), other.1) > own
}

/// What is to be done once there is a result.
pub(super) fn plan(job: &Validated, seen: &Seen, mut draft: Draft) -> Plan {
    draft.phase(JobPhase::Publishing);
    let Some(result) = draft.status.result.clone() else {
        return Plan {
            status: draft.status,
            ..Plan::default()
        };
    };
    let (Some(name), Some(digest)) = (&job.adapter, &result.adapter_digest) else {
        let message = format!("the model lies in {}", result.uri);
        draft.condition(condition::PUBLISHED, "True", "ModelPublished", &message);
        return end(draft, None);
    };
    let publication = |onto: Option<Onto>| Publication {
        name: name.clone(),
        namespace: job.namespace.clone(),
        onto,
        source: AdapterSource {
            uri: result.uri.clone(),
            digest: digest.clone(),
        },
        base_model: BaseModelReference {
            uri: job.spec.base_model.uri.clone(),
            identity: draft
                .status
                .base_model
                .as_ref()
                .and_then(|base| base.identity.clone()),
            digest: draft
                .status
                .base_model
                .as_ref()
                .and_then(|base| base.digest.clone()),
        },
        provenance: Provenance {
            fine_tune_job: job.name.clone(),
            uid: job.uid.clone(),
            created_at: job.created.map(Time),
            dataset_digest: draft
                .status
                .dataset
                .as_ref()
                .map(|dataset| dataset.digest.clone()),
        },
    };
    let publish = match &seen.adapter {
        AdapterSeen::Absent => Some(publication(None)),
        AdapterSeen::Malformed(error) => {
            let message = format!(
                "the Adapter {name} cannot be read ({error}) and keeps what it has; correct or delete it, then it gets the result"
            );
            draft.condition(condition::PUBLISHED, "False", "AdapterMalformed", &message);
            return Plan {
                status: draft.status,
                next_check: Some(MALFORMED_CHECK),
                ..Plan::default()
            };
        }
        AdapterSeen::Present { deleting: true, .. } => {
            let message =
                format!("the Adapter {name} is being deleted; a new one is made once it is gone");
            draft.condition(
                condition::PUBLISHED,
                "False",
                "AdapterTerminating",
                &message,
            );
            return Plan {
                status: draft.status,
                next_check: Some(PROGRESS_INTERVAL),
                ..Plan::default()
            };
        }
        AdapterSeen::Present {
            digest: has,
            from_job,
            ..
        } if has.as_ref() == Some(digest) && from_job.as_ref() == Some(&job.uid) => None,
        AdapterSeen::Present {
            from_younger_job: true,
            ..
        } => {
            let message = format!(
                "the Adapter {name} has a version of a younger FineTuneJob, which this one leaves in place; to serve this \
                 one, set the Adapter's spec.source to {} and {digest}",
                result.uri
            );
            draft.condition(condition::PUBLISHED, "False", "Superseded", &message);
            return end(draft, None);
        }
        AdapterSeen::Present {
            uid,
            resource_version,
            owners,
            ..
        } => Some(publication(Some(Onto {
            uid: uid.clone(),
            resource_version: resource_version.clone(),
            owners: owners.clone(),
        }))),
    };
    let message = format!("the Adapter {name} has the version {digest}");
    draft.condition(condition::PUBLISHED, "True", "Published", &message);
    end(draft, publish)
}

fn end(mut draft: Draft, publish: Option<Publication>) -> Plan {
    draft.succeeded(
        "Succeeded",
        "The run is complete and its result lies in object storage; see status.result.",
    );
    Plan {
        publish,
        status: draft.status,
        ..Plan::default()
    }
}
