//! Carries a plan out. Everything here can be repeated: what exists already, or is gone already, is as wanted.
//!
//! RBAC: `create` configmaps, jobs; `delete` jobs; `create` and `patch` adapters.

use std::time::Duration;

use finetune_crds::names::{GROUP, VERSION, field_manager};
use finetune_crds::{Adapter, FineTuneJob, FineTuneJobStatus};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::plan::{DoomedJob, NewChild, Plan, Publication, Refusal, refused};
use crate::runtime::{Context, Error};

/// What became of a plan: what is to be reported, and when to look again.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The status to store.
    pub status: FineTuneJobStatus,
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
        next_check,
    } = plan;
    let namespace = job.namespace().unwrap_or_default();
    let jobs: Api<Job> = Api::namespaced(ctx.client.clone(), &namespace);
    let mut refusal = None;
    for doomed in &delete {
        delete_job(&jobs, doomed).await?;
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
        return Ok(Applied { status, next_check });
    }
    Ok(Applied { status, next_check })
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

/// Deletes a Job and its pods: a plain delete would leave the pods with their GPUs.
async fn delete_job(jobs: &Api<Job>, doomed: &DoomedJob) -> Result<(), Error> {
    let parameters = DeleteParams::background().preconditions(Preconditions {
        uid: Some(doomed.uid.clone()),
        resource_version: None,
    });
    match jobs.delete(&doomed.name, &parameters).await {
        Ok(_) => {
            tracing::info!(name = doomed.name, "deleted the Job");
            Ok(())
        }
        Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => Ok(()),
        Err(error) => Err(Error::cluster("delete a Job")(error)),
    }
}

/// Writes the fields of the Adapter that are ours, and none of its user's.
async fn write_adapter(ctx: &Context, publication: &Publication) -> Result<Option<Refusal>, Error> {
    let Publication {
        name,
        namespace,
        uid,
        source,
        base_model,
        provenance,
    } = publication;
    let mut metadata = serde_json::json!({ "name": name, "namespace": namespace });
    if let Some(uid) = uid {
        metadata["uid"] = uid.as_str().into();
    }
    let patch = serde_json::json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "Adapter",
        "metadata": metadata,
        "spec": { "source": source, "baseModel": base_model, "provenance": provenance },
    });
    let adapters: Api<Adapter> = Api::namespaced(ctx.client.clone(), namespace);
    let parameters = PatchParams::apply(field_manager::FINE_TUNE_JOB).force();
    match adapters
        .patch(name, &parameters, &Patch::Apply(&patch))
        .await
    {
        Ok(_) => {
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

/// A refusal of what was asked, as data; any other error stays one.
fn as_refusal(error: kube::Error, what: String, of_adapter: bool) -> Result<Refusal, kube::Error> {
    match error {
        kube::Error::Api(answer) if answer.is_invalid() || answer.is_forbidden() => Ok(Refusal {
            what,
            is_final: answer.is_invalid(),
            message: answer.message,
            of_adapter,
        }),
        other => Err(other),
    }
}
