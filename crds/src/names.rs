//! Every string that Kubernetes, users or another process of ours reads: labels, annotations, condition types and
//! reasons, ports, mount paths, field managers.
//!
//! They are settled here once, so that a type, a message and a page of the manual cannot drift apart.

/// The API group.
pub const GROUP: &str = "finetune.dev";
/// The API version.
pub const VERSION: &str = "v1alpha1";

/// Labels and annotations.
pub mod label {
    /// On a Deployment: `enabled` opts its pods in to adapters.
    pub const ADAPTERS: &str = "finetune.dev/adapters";
    /// The value of [`ADAPTERS`] that opts in.
    pub const ADAPTERS_ENABLED: &str = "enabled";
    /// On child objects of a FineTuneJob: the job's name.
    pub const FINE_TUNE_JOB: &str = "finetune.dev/fine-tune-job";
    /// On child objects of a FineTuneJob: `prepare` or `train`.
    pub const STAGE: &str = "finetune.dev/stage";
    /// The recommended label for what made an object.
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// The value of [`MANAGED_BY`] on our objects.
    pub const MANAGED_BY_VALUE: &str = "finetune-operator";
    /// The recommended label for the part of an application.
    pub const COMPONENT: &str = "app.kubernetes.io/component";
}

/// Annotations.
pub mod annotation {
    /// On an inference Deployment: the one Secret with which its agent reads artefacts.
    pub const CREDENTIALS_SECRET: &str = "finetune.dev/credentials-secret";
    /// On an inference Deployment: the digest of the base that its engine serves.
    pub const BASE_MODEL: &str = "finetune.dev/base-model";
    /// On a pod of an inference Deployment: the digest of the desired adapters, written to make the kubelet refresh the
    /// mounted ConfigMap at once.
    pub const DESIRED_DIGEST: &str = "finetune.dev/desired-digest";
    /// On an Adapter: a digest that failed and shall be tried once more.
    pub const RETRY: &str = "finetune.dev/retry";
}

/// Condition types.
pub mod condition {
    /// The data was read, checked and tokenised.
    pub const DATASET_VALID: &str = "DatasetValid";
    /// The adapter lies in object storage and its digest was handed to the Adapter.
    pub const PUBLISHED: &str = "Published";
    /// The job has ended well.
    pub const COMPLETE: &str = "Complete";
    /// The job has ended badly.
    pub const FAILED: &str = "Failed";
    /// As kstatus reads it: the object will not get better by itself.
    pub const STALLED: &str = "Stalled";
    /// As kstatus reads it: the controller is still at work.
    pub const RECONCILING: &str = "Reconciling";
    /// The object does not parse as this version of the operator reads it, and is left alone.
    pub const MALFORMED: &str = "Malformed";
    /// Why the job's pod does not run, where it does not: an image, a node, a Secret.
    pub const PODS_RUNNING: &str = "PodsRunning";
    /// The trainer's progress endpoint answers.
    pub const PROGRESS_REPORTED: &str = "ProgressReported";
    /// Adapter: the wanted version answers on every pod of every Deployment.
    pub const READY: &str = "Ready";
    /// Adapter: manifest, hashes and weights were checked by an agent.
    pub const VERIFIED: &str = "Verified";
    /// Adapter: the engine holds the version and its log-probabilities are those of `golden.json`.
    pub const LOADED: &str = "Loaded";
    /// Adapter: no other Adapter claims the alias.
    pub const CONFLICT: &str = "Conflict";
    /// Adapter: whether the base of the engine was compared with the adapter's.
    pub const BASE_MODEL_CHECKED: &str = "BaseModelChecked";
}

/// Ports of our processes.
pub mod port {
    /// The trainer's `/progress` and `/metrics`.
    pub const TRAINER: u16 = 8480;
    /// The agent's proxy, named [`super::AGENT_PORT_NAME`].
    pub const AGENT_PROXY: u16 = 8481;
    /// The agent's `/state`, `/readyz`, `/livez` and `/metrics`.
    pub const AGENT_STATE: u16 = 8482;
    /// The controller's `/metrics`, `/livez` and `/readyz`.
    pub const CONTROLLER: u16 = 8483;
}

/// The name of the agent's proxy port in a pod; a Service names it as `targetPort`.
pub const AGENT_PORT_NAME: &str = "adapters";
/// The name of the agent's container.
pub const AGENT_CONTAINER: &str = "finetune-agent";
/// The name of the trainer's container.
pub const TRAINER_CONTAINER: &str = "trainer";

/// Paths inside pods.
pub mod path {
    /// The FineTuneJob manifest in the trainer's pod.
    pub const JOB_FILE: &str = "/etc/finetune/job/job.yaml";
    /// The folder with one folder of credentials per use.
    pub const CREDENTIALS: &str = "/etc/finetune/credentials";
    /// The trainer's scratch volume: downloads and files on their way out.
    pub const SCRATCH: &str = "/scratch";
    /// The folder below which each claim that the job reads from has its own, named like it.
    pub const CLAIMS: &str = "/var/lib/finetune/claims";
    /// The claim that keeps downloads between jobs.
    pub const CACHE: &str = "/var/lib/finetune/cache";
    /// The mounted ConfigMap with the desired adapters, in the agent.
    pub const DESIRED: &str = "/etc/finetune/desired";
    /// The file in [`DESIRED`].
    pub const DESIRED_FILE: &str = "desired.json";
    /// The volume with adapter versions, shared by agent and engine.
    pub const ADAPTERS: &str = "/var/lib/finetune/adapters";
}

/// Field managers: one for each writer, never renamed.
pub mod field_manager {
    /// The FineTuneJob controller.
    pub const FINE_TUNE_JOB: &str = "finetune-operator-fine-tune-job";
    /// The Adapter controller.
    pub const ADAPTER: &str = "finetune-operator-adapter";
    /// Whichever controller finds that an object does not parse; it writes one condition and nothing else.
    pub const MALFORMED: &str = "finetune-operator-malformed";
    /// The inference Deployment controller.
    pub const INFERENCE_DEPLOYMENT: &str = "finetune-operator-inference-deployment";
}

/// The environment variable that tells the trainer below which folder claims are mounted.
pub const CLAIMS_VARIABLE: &str = "FINETUNE_CLAIMS";
/// The finalizer that earlier versions put on Adapters; this one takes it away.
pub const RETIRED_FINALIZER: &str = "finetune.dev/adapter";
/// The key of the manifest in the job's ConfigMap.
pub const JOB_FILE_KEY: &str = "job.yaml";
