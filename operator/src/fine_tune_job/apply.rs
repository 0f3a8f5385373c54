//! Carries a plan out. Everything here can be repeated: what exists already, or is gone already, is as wanted.
//!
//! RBAC: `create` and `delete` configmaps and jobs; `delete` pods; `create` and `patch` adapters.

use std::time::Duration;

use finetune_crds::names::{GROUP, VERSION, field_manager};
use finetune_crds::{Adapter, AdapterSpec, FineTuneJob, FineTuneJobStatus};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::events::NewEvent;
use super::plan::publish::Onto;
use super::plan::{Doomed, DoomedKind, NewChild, Plan, Publication, Refusal, refused};
use crate::runtime::{Context, Error};

/// What became of a plan: what is to be reported, and when to look again.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The status to store.
    pub status: FineTuneJobStatus,
    /// What is worth an Event beside the changes of the status.
    pub events: Vec<NewEvent>,
    /// When to look again.
    pub next_check: Option<Duration>,
}

/// Carries `plan` out for `job`.
pub async fn apply(ctx: &Context, job: &FineTuneJob, plan: Plan) -> Result<Applied, Error> {
    let Plan {
        create,
        delete,
        publish,
        status,
        events,
        next_check,
    } = plan;
    let namespace = job.namespace().unwrap_or_default();
    let jobs: Api<Job> = Api::namespaced(ctx.client.clone(), &namespace);
    let mut refusal = None;
    for doomed in &delete {
        let client = ctx.client.clone();
        match doomed.kind {
            // A plain delete would leave the pods with their GPUs.
            DoomedKind::Job => remove(&jobs, doomed, DeleteParams::background()).await?,
            DoomedKind::ConfigMap => {
                let config_maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
                remove(&config_maps, doomed, DeleteParams::default()).await?;
            }
            DoomedKind::Pod => {
                let pods: Api<Pod> = Api::namespaced(client, &namespace);
                remove(&pods, doomed, DeleteParams::default().grace_period(0)).await?;
            }
        }
    }
    // In order: a pod that starts before its ConfigMap is there would wait a minute for it.
    for child in &create {
        refusal = match child {
            NewChild::ConfigMap(config_map) => {
                let config_maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), &namespace);
                create_child(&config_maps, config_map.as_ref(), "ConfigMap").await?
            }
            NewChild::Job(job) => create_child(&jobs, job.as_ref(), "Job").await?,
        };
        if refusal.is_some() {
            break;
        }
    }
    if let Some(publication) = &publish {
        refusal = write_adapter(ctx, publication).await?;
    }
    if let Some(refusal) = refusal {
        let (status, next_check) = refused(job, &refusal, (ctx.now)());
        return Ok(Applied {
            status,
            events,
            next_check,
        });
    }
    Ok(Applied {
        status,
        events,
        next_check,
    })
}

/// Creates a child by POST. One that exists already is judged by the next look, which sees whose it is.
async fn create_child<K>(api: &Api<K>, child: &K, kind: &str) -> Result<Option<Refusal>, Error>
where
    K: ResourceExt + Serialize + DeserializeOwned + Clone + std::fmt::Debug,
{
    match api.create(&PostParams::default(), child).await {
        Ok(_) => {
            tracing::info!(
                kind,
                name = child.name_any(),
                namespace = child.namespace(),
                "created"
            );
            Ok(None)
        }
        Err(kube::Error::Api(answer)) if answer.is_already_exists() => Ok(None),
        Err(error) => as_refusal(error, format!("the {kind} {}", child.name_any()), false)
            .map(Some)
            .map_err(Error::cluster("create a child of the FineTuneJob")),
    }
}

/// Deletes an object, if it still is the one that was seen.
async fn remove<K>(api: &Api<K>, doomed: &Doomed, parameters: DeleteParams) -> Result<(), Error>
where
    K: DeserializeOwned + Clone + std::fmt::Debug,
{
    let parameters = parameters.preconditions(Preconditions {
        uid: Some(doomed.uid.clone()),
        resource_version: None,
    });
    match api.delete(&doomed.name, &parameters).await {
        Ok(_) => {
            tracing::info!(kind = ?doomed.kind, name = doomed.name, "deleted");
            Ok(())
        }
        Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => Ok(()),
        Err(error) => Err(Error::cluster("delete a child of the FineTuneJob")(error)),
    }
}

/// Writes the fields of the Adapter that are ours, and none of its user's, onto the object that was seen. Whoever writes it
/// in between makes this a conflict, and the job is looked at again.
async fn write_adapter(ctx: &Context, publication: &Publication) -> Result<Option<Refusal>, Error> {
    let Publication {
        name,
        namespace,
        onto,
        source,
        ..
    } = publication;
    let adapters: Api<Adapter> = Api::namespaced(ctx.client.clone(), namespace);
    let written = match onto {
        None => create_adapter(&adapters, publication).await,
        Some(onto) => apply_version(&adapters, publication, onto).await,
    };
    match written {
        Ok(()) => {
            tracing::info!(
                namespace,
                name,
                digest = source.digest,
                "gave the Adapter a version"
            );
            Ok(None)
        }
        Err(error) => as_refusal(error, format!("the Adapter {name}"), true)
            .map(Some)
            .map_err(Error::cluster("write the Adapter")),
    }
}

/// Makes the Adapter with its version, by POST: an apply would write onto one that another job has made meanwhile. In one request,
/// so that a refusal leaves no Adapter without a version behind.
async fn create_adapter(
    adapters: &Api<Adapter>,
    publication: &Publication,
) -> Result<(), kube::Error> {
    let parameters = PostParams {
        field_manager: Some(field_manager::FINE_TUNE_JOB.to_owned()),
        ..PostParams::default()
    };
    let spec = AdapterSpec {
        source: Some(publication.source.clone()),
        base_model: Some(publication.base_model.clone()),
        provenance: Some(publication.provenance.clone()),
        ..AdapterSpec::default()
    };
    adapters
        .create(&parameters, &Adapter::new(&publication.name, spec))
        .await?;
    Ok(())
}

/// Applies the version to the Adapter that was seen.
async fn apply_version(
    adapters: &Api<Adapter>,
    publication: &Publication,
    onto: &Onto,
) -> Result<(), kube::Error> {
    let Publication {
        name,
        namespace,
        source,
        base_model,
        provenance,
        ..
    } = publication;
    let mut resource_version = onto.resource_version.clone();
    if let Some(owners) = &onto.owners {
        let record = serde_json::json!({
            "metadata": { "resourceVersion": resource_version, "managedFields": owners },
        });
        let parameters = PatchParams {
            field_manager: Some(field_manager::FINE_TUNE_JOB.to_owned()),
            ..PatchParams::default()
        };
        let written = adapters
            .patch_metadata(name, &parameters, &Patch::Merge(&record))
            .await?;
        resource_version = written.resource_version().unwrap_or_default();
    }
    let patch = serde_json::json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "Adapter",
        "metadata": { "name": name, "namespace": namespace, "uid": onto.uid, "resourceVersion": resource_version },
        "spec": { "source": source, "baseModel": base_model, "provenance": provenance },
    });
    let parameters = PatchParams::apply(field_manager::FINE_TUNE_JOB).force();
    adapters
        .patch(name, &parameters, &Patch::Apply(&patch))
        .await?;
    Ok(())
}

/// A refusal of what was asked, as data; any other error stays one.
///
/// Admission webhooks and policies choose their code themselves, 400 and 422 among them, and a person may change them: only
/// what the API server's own validation says of the object is final.
fn as_refusal(error: kube::Error, what: String, of_adapter: bool) -> Result<Refusal, kube::Error> {
    let kube::Error::Api(answer) = error else {
        return Err(error);
    };
    let by_admission = [
        "denied the request",
        "denied request",
        "failed calling webhook",
    ]
    .iter()
    .any(|words| answer.message.contains(words));
    let for_what_it_asks = matches!(answer.code, 400 | 402..=407 | 410..=428 | 430..=499);
    if by_admission || for_what_it_asks {
        return Ok(Refusal {
            what,
            is_final: answer.is_invalid() && !by_admission,
            message: answer.message.clone(),
            of_adapter,
        });
    }
    Err(kube::Error::Api(answer))
}
