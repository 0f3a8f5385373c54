//! Reads what the cluster and the trainer say of one `FineTuneJob`. Reads only, and never a Secret.
//!
//! RBAC: `get` finetunejobs, adapters, configmaps, jobs; `list` pods and events.

use std::time::Duration;

use finetune_crds::contract::{Progress, Stage};
use finetune_crds::fine_tune_job::JobPhase;
use finetune_crds::names::{label, port};
use finetune_crds::{Adapter, FineTuneJob};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, ResourceExt};

use super::plan::{PROGRESS_INTERVAL, cause, config_map, field_owner, publish, stage_job};
use super::seen::{AdapterSeen, Child, JobSeen, Seen};
use super::translate;
use crate::runtime::{Context, Error};

/// Progress younger than this is not asked for again: our own write of the status wakes us at once.
const PROGRESS_AGE: Duration = Duration::from_millis(PROGRESS_INTERVAL.as_millis() as u64 * 8 / 10);

/// The job as the API server has it now, and what belongs to it; `None` if there is nothing to be done about it.
///
/// The watch's copy may be older than our own last write. Decisions rest on what was recorded, so they need the newest.
pub async fn observe(
    ctx: &Context,
    watched: &FineTuneJob,
) -> Result<Option<(FineTuneJob, Seen)>, Error> {
    let phase = watched.status.as_ref().and_then(|status| status.phase);
    if phase == Some(JobPhase::Succeeded) {
        return Ok(None);
    }
    let (Some(namespace), name) = (watched.namespace(), watched.name_any()) else {
        return Ok(None);
    };
    let fine_tune_jobs: Api<DeserializeGuard<FineTuneJob>> =
        Api::namespaced(ctx.client.clone(), &namespace);
    // One that does not parse any more comes by the watch, and is told of there.
    let job = fine_tune_jobs
        .get_opt(&name)
        .await
        .map_err(Error::cluster("read the FineTuneJob"))?
        .and_then(|guard| guard.0.ok());
    let Some(job) = job.filter(|job| job.metadata.deletion_timestamp.is_none()) else {
        return Ok(None);
    };
    let uid = job.uid().unwrap_or_default();
    let mut seen = Seen::default();
    let has_result = job
        .status
        .as_ref()
        .is_some_and(|status| status.result.is_some());
    if has_result {
        seen.adapter = adapter(ctx, &fine_tune_jobs, &job).await?;
        return Ok(Some((job, seen)));
    }
    let jobs: Api<Job> = Api::namespaced(ctx.client.clone(), &namespace);
    let config_maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), &namespace);
    let (config_map_name, prepare, train) = (
        config_map::name(&name),
        stage_job::name(&name, Stage::Prepare),
        stage_job::name(&name, Stage::Train),
    );
    let (config_map, prepare, train) = tokio::try_join!(
        config_maps.get_opt(&config_map_name),
        jobs.get_opt(&prepare),
        jobs.get_opt(&train),
    )
    .map_err(Error::cluster("read the children of the FineTuneJob"))?;
    seen.config_map = translate::child(config_map.as_ref(), &name, &uid, translate::manifest);
    seen.prepare = translate::child(prepare.as_ref(), &name, &uid, translate::job);
    seen.train = translate::child(train.as_ref(), &name, &uid, translate::job);
    if phase.is_some_and(JobPhase::is_finished) {
        return Ok(Some((job, seen)));
    }
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &namespace);
    let selector = ListParams::default().labels(&format!("{}={name}", label::FINE_TUNE_JOB));
    let pods = pods
        .list(&selector)
        .await
        .map_err(Error::cluster("list the pods of the FineTuneJob"))?;
    for (stage, stage_job) in [(Stage::Prepare, &seen.prepare), (Stage::Train, &seen.train)] {
        if let Some(job_uid) = stage_job.uid() {
            seen.pods.extend(
                pods.iter()
                    .filter_map(|pod| translate::pod(pod, stage, job_uid, &uid)),
            );
        }
    }
    seen.pods
        .sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    seen.progress = progress(ctx, &seen, &uid).await;
    seen.pod_refusal = pod_refusal(ctx, &namespace, &seen).await?;
    Ok(Some((job, seen)))
}

/// What the running train pod reports.
async fn progress(ctx: &Context, seen: &Seen, uid: &str) -> Option<Result<Progress, String>> {
    let pod = seen
        .pods
        .iter()
        .rev()
        .find(|pod| pod.stage == Stage::Train && pod.is_running())?;
    let address = pod.ip.as_deref()?;
    let read: Result<Progress, String> = ctx
        .pods
        .read(&pod.name, address, port::TRAINER, "/progress", PROGRESS_AGE)
        .await;
    Some(match read {
        Ok(progress) if progress.uid == uid => Ok(progress),
        Ok(_) => Err("speaks of another FineTuneJob".to_owned()),
        Err(error) => Err(error),
    })
}

/// Why the Job controller could not create a pod that is overdue: only its Events say it.
async fn pod_refusal(ctx: &Context, namespace: &str, seen: &Seen) -> Result<Option<String>, Error> {
    let overdue = |stage: Stage, child: &Child<JobSeen>| {
        let is = child.ours()?;
        let waits = is.end.is_none()
            && !is.suspended
            && cause::is_pod_overdue(is, (ctx.now)())
            && !seen.pods.iter().any(|pod| pod.stage == stage);
        waits.then(|| child.uid().map(str::to_owned)).flatten()
    };
    let stuck =
        overdue(Stage::Prepare, &seen.prepare).or_else(|| overdue(Stage::Train, &seen.train));
    let Some(uid) = stuck else {
        return Ok(None);
    };
    let events: Api<Event> = Api::namespaced(ctx.client.clone(), namespace);
    let selector =
        ListParams::default().fields(&format!("involvedObject.uid={uid},reason=FailedCreate"));
    let events = events
        .list(&selector)
        .await
        .map_err(Error::cluster("list the Events of a Job without a pod"))?;
    let newest = events
        .into_iter()
        .max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
    Ok(newest.and_then(|event| event.message))
}

/// The Adapter that is to get the result.
async fn adapter(
    ctx: &Context,
    fine_tune_jobs: &Api<DeserializeGuard<FineTuneJob>>,
    job: &FineTuneJob,
) -> Result<AdapterSeen, Error> {
    let (Some(namespace), job_name) = (job.namespace(), job.name_any()) else {
        return Ok(AdapterSeen::Absent);
    };
    let Some(name) = job.spec.adapter_name(&job_name) else {
        return Ok(AdapterSeen::Absent);
    };
    let adapters: Api<DeserializeGuard<Adapter>> = Api::namespaced(ctx.client.clone(), &namespace);
    let adapter = adapters
        .get_opt(name)
        .await
        .map_err(Error::cluster("read the Adapter that gets the result"))?;
    let adapter = match adapter {
        Some(DeserializeGuard(Ok(adapter))) => adapter,
        Some(DeserializeGuard(Err(invalid))) => return Ok(AdapterSeen::Malformed(invalid.error)),
        None => return Ok(AdapterSeen::Absent),
    };
    let provenance = adapter.spec.provenance.as_ref();
    let mut from_younger_job = false;
    if let Some(provenance) =
        provenance.filter(|provenance| Some(&provenance.uid) != job.metadata.uid.as_ref())
    {
        let created = match &provenance.created_at {
            Some(created) => Some(created.clone()),
            // An earlier version did not write it down: the other FineTuneJob knows, while it exists.
            None => fine_tune_jobs
                .get_metadata_opt(&provenance.fine_tune_job)
                .await
                .map_err(Error::cluster(
                    "read the FineTuneJob that the Adapter's version comes from",
                ))?
                .filter(|other| other.metadata.uid.as_ref() == Some(&provenance.uid))
                .and_then(|other| other.metadata.creation_timestamp),
        };
        from_younger_job = created.is_some_and(|created| {
            let own = &job.metadata;
            publish::is_younger(
                (created.0, &provenance.uid),
                (
                    own.creation_timestamp.as_ref().map(|time| time.0),
                    own.uid.as_deref().unwrap_or_default(),
                ),
            )
        });
    }
    Ok(AdapterSeen::Present {
        uid: adapter.uid().unwrap_or_default(),
        resource_version: adapter.resource_version().unwrap_or_default(),
        deleting: adapter.metadata.deletion_timestamp.is_some(),
        digest: adapter
            .spec
            .source
            .as_ref()
            .map(|source| source.digest.clone()),
        from_job: provenance.map(|provenance| provenance.uid.clone()),
        from_younger_job,
        owners: field_owner::as_applied(adapter.managed_fields()),
    })
}
