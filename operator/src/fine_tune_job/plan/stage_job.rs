//! The Job of a stage: one pod at a time, replaced only once it has failed, and not at all after an exit code that says
//! another try would end the same way.

use finetune_crds::contract::{ExitCode, Stage};
use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};

use super::super::validate::Validated;
use super::{child_metadata, labels, pod};
use crate::settings::OperatorSettings;

/// Its name.
pub fn name(job: &str, stage: Stage) -> String {
    format!("{job}-{}", labels::stage_name(stage))
}

/// The Job of a stage, in which `retries` failed pods are replaced. It has no time to live: if it went by itself, so would the
/// outcome that its pod holds.
pub fn job(job: &Validated, settings: &OperatorSettings, stage: Stage, retries: i32) -> Job {
    let mut job_labels = labels::for_pod(&job.labels, &job.name, stage);
    if stage == Stage::Train {
        job_labels.extend(labels::for_queue(&job.labels));
    }
    Job {
        metadata: child_metadata(job, name(&job.name, stage), job_labels),
        spec: Some(JobSpec {
            completions: Some(1),
            parallelism: Some(1),
            backoff_limit: Some(retries),
            pod_failure_policy: Some(pod_failure_policy()),
            // Two trainers must never hold one device and one checkpoint folder.
            pod_replacement_policy: Some("Failed".to_owned()),
            template: pod::template(job, settings, stage),
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// The first rule that matches counts.
fn pod_failure_policy() -> PodFailurePolicy {
    let on_exit_codes = |action: &str, codes: &[ExitCode]| PodFailurePolicyRule {
        action: action.to_owned(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: None,
            operator: "In".to_owned(),
            values: codes.iter().map(|code| i32::from(code.code())).collect(),
        }),
        on_pod_conditions: None,
    };
    PodFailurePolicy {
        rules: vec![
            on_exit_codes("FailJob", &ExitCode::FINAL),
            on_exit_codes("Ignore", &[ExitCode::Preempted]),
            PodFailurePolicyRule {
                action: "Ignore".to_owned(),
                on_exit_codes: None,
                on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                    type_: "DisruptionTarget".to_owned(),
                    status: "True".to_owned(),
                }]),
            },
        ],
    }
}
