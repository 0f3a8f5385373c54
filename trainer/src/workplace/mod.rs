//! Where a run's files lie: the job's folder, the passing folder, the output, the cache, and with which credentials
//! each is reached.
//!
//! By hand and in a pod it is one code path: only the places differ.

mod roots;
mod temporary_folder;

use std::path::{Path, PathBuf};

use finetune_artifacts::cache::Cache;
use finetune_artifacts::credentials::{Credentials, Usage};
use finetune_artifacts::store::Store;
use finetune_artifacts::uri::Location;
use finetune_crds::contract::layout;
use finetune_crds::shared::SecretReference;
use finetune_crds::uris;

use crate::failure::Failure;
use crate::job::Job;
use roots::Roots;

pub use temporary_folder::TemporaryFolder;

/// What the command line says of places.
#[derive(Clone, Debug)]
pub struct Places {
    /// The job's folder: a directory or a URI.
    pub work: String,
    /// The passing folder; absent: `scratch` in the job's.
    pub passing: Option<String>,
    /// Where downloads are kept; absent: the user's cache directory.
    pub cache: Option<PathBuf>,
    /// Where files on their way out are put together; absent: where downloads are kept.
    pub outgoing: Option<PathBuf>,
    /// The mounted credentials, a folder a use; absent: the environment.
    pub credentials: Option<PathBuf>,
}

/// The places of one job, opened.
#[derive(Debug)]
pub struct Workplace {
    /// The job's own folder, which is kept.
    pub job_folder: Store,
    /// What only a running job needs.
    pub passing: Store,
    /// Where results are published, ending in `/`.
    pub output_uri: String,
    /// With which they are published.
    pub output_credentials: Credentials,
    /// With which the base is read.
    pub base_credentials: Credentials,
    /// With which the data is read.
    pub dataset_credentials: Credentials,
    /// With which the adapter to go on from is read.
    pub initial_adapter_credentials: Credentials,
    /// Downloads, kept between jobs.
    pub cache: Cache,
    /// The local directory where files on their way out are put together.
    pub local: PathBuf,
    /// Who names these folders.
    roots: Roots,
}

impl Workplace {
    /// Opens the places of `job`, and deletes what killed processes left where files on their way out are put together. Touches
    /// no store yet.
    pub fn open(job: &Job, places: &Places) -> Result<Self, Failure> {
        let spec = &job.spec;
        let root = places.credentials.as_deref();
        let resolve = |usage, field: &str, reference: Option<&SecretReference>| {
            let uris = spec
                .sources()
                .filter(|(source, _)| source.starts_with(field));
            let name = reference.map(|secret| secret.name.as_str());
            Credentials::resolve(root, usage, name, uris.map(|(_, uri)| uri))
        };
        let output = spec.output.as_ref();
        let output_credentials = Credentials::resolve(
            root,
            Usage::Output,
            output
                .and_then(|output| output.credentials_secret_ref.as_ref())
                .map(|secret| secret.name.as_str()),
            [places.work.as_str()],
        )?;
        let work = writable("--work", &places.work)?;
        let passing = match &places.passing {
            Some(passing) => writable("--passing", passing)?,
            None => below(&work, "scratch/"),
        };
        let output_uri = match output.and_then(|output| output.uri.as_deref()) {
            Some(uri) => Location::parse(uri)?.into_folder().to_string(),
            None => below(&work, "output/"),
        };
        let cache = match &places.cache {
            Some(cache) => std::path::absolute(cache)?,
            None => default_cache()?,
        };
        create("--cache", &cache)?;
        let local = match &places.outgoing {
            Some(outgoing) => std::path::absolute(outgoing)?,
            None => cache.clone(),
        };
        create("--outgoing", &local)?;
        if let Err(error) = temporary_folder::delete_ownerless(&local) {
            let folder = local.display();
            tracing::warn!("what killed processes left in {folder} is not deleted: {error}");
        }
        let mut roots = Roots::default();
        roots.add_uri(&work, "--work");
        if places.passing.is_some() {
            roots.add_uri(&passing, "--passing");
        }
        if let Some(uri) = output.and_then(|output| output.uri.as_deref()) {
            roots.add_uri(uri, "spec.output.uri");
        }
        for (field, uri) in spec.sources() {
            roots.add_source(uri, field);
        }
        roots.add(cache.clone(), "--cache");
        if places.outgoing.is_some() {
            roots.add(local.clone(), "--outgoing");
        }
        Ok(Self {
            roots,
            job_folder: Store::open(&work, &output_credentials)?,
            passing: Store::open(&passing, &output_credentials)?,
            output_uri,
            output_credentials,
            base_credentials: resolve(
                Usage::Base,
                "spec.baseModel.",
                spec.base_model.credentials_secret_ref.as_ref(),
            )?,
            dataset_credentials: resolve(
                Usage::Dataset,
                "spec.dataset.",
                spec.dataset.credentials_secret_ref.as_ref(),
            )?,
            initial_adapter_credentials: resolve(
                Usage::InitialAdapter,
                "spec.initialAdapter.",
                spec.initial_adapter
                    .as_ref()
                    .and_then(|adapter| adapter.credentials_secret_ref.as_ref()),
            )?,
            cache: Cache::new(&cache),
            local,
        })
    }

    /// A store of the folder in which the result's versions lie.
    pub fn versions(&self, job: &Job) -> Result<Store, Failure> {
        let uri = match job.spec.adapter_name(&job.name) {
            Some(adapter) => layout::adapter_folder(&self.output_uri, &job.namespace, adapter),
            None => layout::model_folder(&self.output_uri, &job.namespace, &job.name),
        };
        Ok(Store::open(&uri, &self.output_credentials)?)
    }

    /// A store of the folder in which the job's whole models lie.
    pub fn models(&self, job: &Job) -> Result<Store, Failure> {
        let uri = layout::model_folder(&self.output_uri, &job.namespace, &job.name);
        Ok(Store::open(&uri, &self.output_credentials)?)
    }

    /// A new directory for files on their way, removed when dropped.
    pub fn temporary(&self) -> Result<TemporaryFolder, Failure> {
        TemporaryFolder::new(&self.local).map_err(|source| {
            finetune_artifacts::Error::local("create a directory in", &self.local, source).into()
        })
    }

    /// The failure with its cure, where one of these folders is full, cannot be written to or lies in a bucket that is not there.
    #[must_use]
    pub fn with_cure(&self, mut failure: Failure) -> Failure {
        let missing = failure.bucket.take();
        if let Some((name, message)) = missing.and_then(|missing| self.roots.of_bucket(&missing)) {
            failure.message = message;
            failure.field = name.starts_with("spec.").then_some(name);
        }
        let fault = failure.local.take();
        if let Some(cure) = fault.and_then(|fault| self.roots.cure(&fault)) {
            failure.message = format!("{}: {cure}", failure.message);
        }
        failure
    }
}

/// The folder that a flag names, which must be one that can be written to.
fn writable(flag: &str, folder: &str) -> Result<String, Failure> {
    let location = Location::parse_folder(folder)?;
    if let Location::File { path, .. } = &location
        && let Some(file) = file_in_the_way(path)
    {
        return Err(Failure::invalid(format!(
            "{flag} is {location}, but {} is a file: expected a directory, which need not exist",
            file.display()
        )));
    }
    if location.is_writable() {
        return Ok(location.to_string());
    }
    Err(Failure::invalid(format!(
        "{flag} is {location}, which is for reading only: expected a directory, or a folder of {}",
        uris::list(&uris::WRITABLE)
    )))
}

/// What is no directory where the folder or one of those above it should be.
fn file_in_the_way(folder: &Path) -> Option<&Path> {
    folder
        .ancestors()
        .find(|found| found.exists())
        .filter(|found| !found.is_dir())
}

fn create(flag: &str, folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(|error| {
        Failure::internal(format!(
            "failed to create the directory {}: {error}; choose another with {flag}",
            folder.display()
        ))
    })
}

/// `<folder>/<name>`.
fn below(folder: &str, name: &str) -> String {
    format!("{}/{name}", folder.trim_end_matches('/'))
}

/// `$XDG_CACHE_HOME/finetune`, or `~/.cache/finetune`.
fn default_cache() -> Result<PathBuf, Failure> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    set("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache")))
        .map(|cache| cache.join("finetune"))
        .ok_or_else(|| Failure::invalid("no directory for downloads: neither XDG_CACHE_HOME nor HOME is set; name one with --cache"))
}
