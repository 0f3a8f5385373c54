//! Flags that several commands share.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::failure::Failure;
use crate::job::Job;
use crate::manifest_file::{self, Meant};
use crate::workplace::{Places, Workplace};

use super::values;

/// Which job, and where its files lie.
#[derive(Args, Debug)]
pub(super) struct JobArguments {
    /// The FineTuneJob manifest.
    #[arg(long, value_name = "JOB.YAML", env = "FINETUNE_FILE")]
    pub file: PathBuf,

    /// The job's folder, a directory or a URI: plan, metrics and outcome are kept there.
    ///
    /// Without `output.uri` in the manifest the result is published below `<WORK>/output/`.
    #[arg(long, value_name = "DIR-OR-URI", env = "FINETUNE_WORK")]
    pub work: String,

    /// The folder of what only a running job needs: prepared data and checkpoints. Default: `<WORK>/scratch`.
    #[arg(long, value_name = "DIR-OR-URI", env = "FINETUNE_PASSING")]
    pub passing: Option<String>,

    /// The local directory in which downloads are kept for later jobs; several trainers may share it. Default: `finetune` in
    /// the user's cache directory.
    #[arg(long, value_name = "DIR", env = "FINETUNE_CACHE")]
    pub cache: Option<PathBuf>,

    /// The local directory in which uploads are put together. Default: that of `--cache`.
    #[arg(long, value_name = "DIR", env = "FINETUNE_OUTGOING")]
    pub outgoing: Option<PathBuf>,

    /// A directory with the folders `base`, `dataset`, `initial-adapter` and `output`, each with one file a key
    /// (`AWS_ACCESS_KEY_ID`, …), as Kubernetes mounts Secrets. Default: the environment.
    #[arg(long, value_name = "DIR", env = "FINETUNE_CREDENTIALS")]
    pub credentials: Option<PathBuf>,

    /// The digest of the spec that `--file` must hold; a manifest with another one is refused. Where it is given, the manifest is a
    /// cluster's: a field in it that this trainer does not know is a warning, not an error.
    #[arg(long, value_name = "SHA256:HEX", env = "FINETUNE_SPEC_DIGEST")]
    pub spec_digest: Option<String>,

    /// The namespace of the job that `--file` must hold; the manifest of another one is refused. It is part of the result's folder.
    #[arg(long, value_name = "NAMESPACE", env = "FINETUNE_JOB_NAMESPACE")]
    pub job_namespace: Option<String>,

    /// The name of the job that `--file` must hold; the manifest of another one is refused. It may be part of the result's folder.
    #[arg(long, value_name = "NAME", env = "FINETUNE_JOB_NAME")]
    pub job_name: Option<String>,

    /// The UID of the job that `--file` must hold; the manifest of another one is refused.
    #[arg(long, value_name = "UID", env = "FINETUNE_JOB_UID")]
    pub job_uid: Option<String>,

    /// Threads to compute with. Default: the CPUs that this process may use.
    #[arg(long, value_name = "COUNT", value_parser = values::threads, allow_negative_numbers = true, env = "FINETUNE_THREADS")]
    pub threads: Option<std::num::NonZeroU16>,
}

impl JobArguments {
    /// The places that the flags name.
    pub(super) fn places(&self) -> Places {
        Places {
            work: self.work.clone(),
            passing: self.passing.clone(),
            cache: self.cache.clone(),
            outgoing: self.outgoing.clone(),
            credentials: self.credentials.clone(),
        }
    }

    /// Reads the manifest.
    pub(super) fn read(&self) -> Result<Job, Failure> {
        let meant = Meant {
            spec_digest: self.spec_digest.as_deref(),
            namespace: self.job_namespace.as_deref(),
            name: self.job_name.as_deref(),
            uid: self.job_uid.as_deref(),
        };
        Ok(manifest_file::read(&self.file, &meant)?)
    }

    /// Reads the manifest and opens its places, for a command that computes.
    pub(super) fn open(&self) -> Result<(Job, Workplace), Failure> {
        let job = self.read()?;
        self.set_threads();
        let place = Workplace::open(&job, &self.places())?;
        Ok((job, place))
    }

    /// Tells libtorch how many threads to compute with.
    pub(super) fn set_threads(&self) {
        let threads = self
            .threads
            .map_or_else(finetune_numerics::device::threads, |threads| {
                usize::from(threads.get())
            });
        tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        tracing::debug!("computing with {threads} threads");
    }
}

/// Which adapter, beside the job.
#[derive(Args, Debug)]
pub(super) struct AdapterArguments {
    #[command(flatten)]
    pub job: JobArguments,

    /// The PEFT adapter: a directory or a URI. Default: the one that the job has published; of `evaluate` the manifest's
    /// `initialAdapter`, or none.
    #[arg(long, value_name = "DIR-OR-URI", env = "FINETUNE_ADAPTER")]
    pub adapter: Option<String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    Text,
    /// For collectors: one JSON object a line.
    Json,
}
