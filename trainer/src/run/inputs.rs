//! What a run works on: the base's files and the prepared data.

use std::fmt::Display;
use std::path::PathBuf;

use finetune_artifacts::store::{self, Creation};
use finetune_artifacts::uri::Location;
use finetune_crds::contract::layout;
use finetune_crds::fine_tune_job::BaseModel;
use finetune_numerics::adapter::Lora;

use crate::base::{BaseModelFiles, BaseQuantization, Fetch};
use crate::failure::Failure;
use crate::job::{Job, TrainingMethod};
use crate::outcome;
use crate::peft;
use crate::prepare::{self, Prepared, Request};
use crate::workplace::Workplace;

/// Base and data of a job that is about to be trained.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// The base, fetched whole.
    pub base: BaseModelFiles,
    /// The digest of all its files.
    pub base_digest: String,
    /// The data.
    pub data: Prepared,
    /// The folder of the adapter to go on from, which fits base and method.
    pub initial_adapter: Option<PathBuf>,
}

impl Inputs {
    /// Fetches the base and reads the prepared data, which is prepared now where `trainer prepare` has not done so.
    pub(crate) async fn of(job: &Job, place: &Workplace) -> Result<Self, Failure> {
        let base = fetch(job, place, Fetch::Whole).await?;
        let request = request(job, place, &base);
        let data = match prepare::load(&request).await? {
            Some(data) => data,
            None => prepare::prepare(&request).await?,
        };
        Ok(Self {
            initial_adapter: initial_adapter(job, place, &base).await?,
            base_digest: base.digest()?,
            base,
            data,
        })
    }

    /// The adapter to go on from.
    pub(crate) fn read_initial_adapter(&self) -> Result<Option<Lora>, Failure> {
        let folder = self.initial_adapter.as_deref();
        let read = |folder| peft::read(folder, self.base.config());
        Ok(folder.map(read).transpose()?.map(|adapter| adapter.lora))
    }
}

/// Prepares the data anew. Reads no weights where the base keeps them apart.
pub(crate) async fn prepare(
    job: &Job,
    place: &Workplace,
) -> Result<(BaseModelFiles, Prepared), Failure> {
    let base = fetch(job, place, Fetch::WithoutWeights).await?;
    initial_adapter(job, place, &base).await?;
    let data = prepare::prepare(&request(job, place, &base)).await?;
    Ok((base, data))
}

/// Fetches the adapter to go on from, and refuses one that does not fit base or method.
async fn initial_adapter(
    job: &Job,
    place: &Workplace,
    base: &BaseModelFiles,
) -> Result<Option<PathBuf>, Failure> {
    let (Some(adapter), Some(settings)) = (&job.spec.initial_adapter, job.method.adapter()) else {
        return Ok(None);
    };
    let folder = peft::fetch(
        &adapter.uri,
        &place.initial_adapter_credentials,
        &place.cache,
    )
    .await?;
    let fault = |error: &dyn Display| {
        Failure::invalid(format!("spec.initialAdapter.uri: {}: {error}", adapter.uri))
    };
    let lora = peft::read(&folder, base.config())
        .map_err(|error| fault(&error))?
        .lora;
    lora.refuse_other(base.config(), &settings.lora)
        .map_err(|error| fault(&error))?;
    Ok(Some(folder))
}

/// Fetches the job's base.
pub(crate) async fn fetch(
    job: &Job,
    place: &Workplace,
    fetch: Fetch,
) -> Result<BaseModelFiles, Failure> {
    let uri = pinned(job, place).await?;
    let base = BaseModelFiles::fetch(&uri, &place.base_credentials, &place.cache, fetch).await?;
    if let Some(stored) = base.quantization() {
        check_quantization(job, stored)?;
    }
    Ok(base)
}

/// The same `hf://` URI at a commit.
fn at_commit(uri: &str, commit: String) -> Result<String, Failure> {
    let mut location = Location::parse(uri)?;
    if let Location::Hub { revision, .. } = &mut location {
        *revision = Some(commit);
    }
    Ok(location.to_string())
}

/// The base's URI with the commit that the job's first stage has found. A branch may move while a job waits in a queue:
/// the data was prepared with the tokenizer of that commit, and its weights belong to it.
async fn pinned(job: &Job, place: &Workplace) -> Result<String, Failure> {
    let BaseModel { uri, revision, .. } = &job.spec.base_model;
    if !uri.starts_with("hf://") {
        return Ok(uri.clone());
    }
    if let Some(bytes) = place.passing.read_optional(layout::PINNED_BASE).await? {
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    // The passing folder goes when the job is done; the outcome stays, and its base is what `merge` must merge into.
    let outcome = outcome::find(&place.job_folder, job).await?;
    if let Some(commit) = outcome.and_then(|outcome| outcome.base_model?.revision) {
        return at_commit(uri, commit);
    }
    let pinned = store::pin(uri, revision.as_deref(), &place.base_credentials).await?;
    match place
        .passing
        .create(layout::PINNED_BASE, pinned.clone().into())
        .await?
    {
        Creation::Created => Ok(pinned),
        Creation::AlreadyExists => {
            let bytes = place.passing.read(layout::PINNED_BASE).await?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
    }
}

/// A base that is saved in 4 bits is trained as it is: refuses a manifest that asks for anything else.
fn check_quantization(job: &Job, stored: BaseQuantization) -> Result<(), Failure> {
    let uri = &job.spec.base_model.uri;
    let wanted = match &job.method {
        TrainingMethod::Qlora { quantization, .. } => *quantization,
        TrainingMethod::Full | TrainingMethod::Lora(_) => {
            return Err(Failure::invalid(format!(
                "spec.method is {}, but the base {uri} is saved in 4 bits ({stored}): use method qlora, or the base as it was \
                 before",
                job.method.name()
            )));
        }
    };
    if wanted != stored {
        return Err(Failure::invalid(format!(
            "spec.method.qlora.quantization asks for {wanted}, but the base {uri} is saved as {stored} and is taken over as \
             it is: set type: {} and doubleQuantization: {}",
            stored.code, stored.double_quantization
        )));
    }
    if job.wants_merged_model() {
        return Err(Failure::invalid(format!(
            "spec.output.mergedModel is true, but the base {uri} is saved in 4 bits, into which nothing is merged: set it to \
             false, and merge into the base as it was before"
        )));
    }
    Ok(())
}

fn request<'a>(job: &'a Job, place: &'a Workplace, base: &'a BaseModelFiles) -> Request<'a> {
    Request {
        spec: &job.spec,
        base,
        credentials: &place.dataset_credentials,
        cache: &place.cache,
        passing: &place.passing,
        local: &place.local,
        today: crate::clock::now().to_zoned(jiff::tz::TimeZone::UTC).date(),
    }
}
