//! The data of a job on its base: what the crate `finetune_dataset` prepares, and what the base's shape and the engines say of the
//! job before any row is read.
//!
//! `prepare` makes the set anew, `load` reads it back and refuses one that was made for another manifest or tokenizer.

pub(crate) mod servable;

use std::path::Path;

use finetune_artifacts::cache::Cache;
use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::store::Store;
use finetune_crds::FineTuneJobSpec;
use finetune_dataset::{PreparedSet, prepare as data};

use crate::base::BaseModelFiles;
use crate::failure::Failure;
use crate::workplace::TemporaryFolder;

pub use finetune_dataset::prepare::{Error, Prepared};

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::new(error.reason(), error.to_string());
        match &error {
            Error::Store(error) => failure.at_store(error),
            _ => failure,
        }
    }
}

/// What preparing needs.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The job.
    pub spec: &'a FineTuneJobSpec,
    /// Its base; the weights are not read.
    pub base: &'a BaseModelFiles,
    /// With which the data is read.
    pub credentials: &'a Credentials,
    /// Where downloads are kept.
    pub cache: &'a Cache,
    /// The job's passing folder.
    pub passing: &'a Store,
    /// A local directory for files on their way.
    pub local: &'a Path,
    /// The day, which some chat templates print. A set that is prepared again keeps the day on which it was prepared first.
    pub today: jiff::civil::Date,
}

impl Request<'_> {
    fn set(&self) -> PreparedSet<'_> {
        PreparedSet {
            passing: self.passing,
            spec: self.spec,
            tokenizer_digest: self.base.tokenizer().digest(),
        }
    }

    fn data(&self, day: jiff::civil::Date) -> data::Request<'_> {
        data::Request {
            dataset: &self.spec.dataset,
            objective: self.spec.objective.as_ref(),
            tokenizer: self.base.tokenizer(),
            max_positions: self.base.config().max_position_embeddings,
            credentials: self.credentials,
            cache: self.cache,
            day,
        }
    }

    fn temporary(&self) -> Result<TemporaryFolder, Error> {
        TemporaryFolder::new(self.local).map_err(|source| {
            finetune_artifacts::Error::local("create a directory in", self.local, source).into()
        })
    }
}

/// Prepares the data, and keeps it in the passing folder.
pub async fn prepare(request: &Request<'_>) -> Result<Prepared, Error> {
    let notes = servable::check(request.spec, request.base.config()).map_err(Error::Setting)?;
    let set = request.set();
    let day = set.day().await?.unwrap_or(request.today);
    let mut prepared = data::prepare(&request.data(day)).await?;
    prepared.report.warnings.extend(notes);
    set.write(prepared, request.temporary()?.path()).await
}

/// Reads the set of this job; `None` where there is none yet.
pub async fn load(request: &Request<'_>) -> Result<Option<Prepared>, Error> {
    let vocabulary = request.base.config().vocabulary_size;
    let folder = request.temporary()?;
    request.set().load(vocabulary, folder.path()).await
}
