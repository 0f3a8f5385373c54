//! The base model's files: a Hugging Face directory or one GGUF file, as configuration, tokenizer and weights.
//!
//! Files are untrusted: what would change the mathematics and is not understood is refused by name. Weights are lent one
//! tensor at a time; no code that comes with a model is ever run.

mod gguf;
mod gguf_config;
mod hugging_face;
mod hugging_face_config;
mod quantization;
mod safetensors_weights;
mod stored_weights;

use std::path::{Path, PathBuf};

use finetune_artifacts::cache::{Cache, identity};
use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::manifest::Manifest;
use finetune_artifacts::store::Store;
use finetune_artifacts::uri::Location;
use finetune_crds::contract::OutcomeReason;
use finetune_crds::fine_tune_job::BaseModelStatus;
use finetune_numerics::architecture::ModelConfig;

use crate::failure::Failure;

use finetune_dataset::tokenize::{self, Tokenizer};
pub(crate) use gguf::{row_in_file, turned_heads};
pub use hugging_face_config::{FAMILIES, Family, LlamaCpp};
pub use quantization::BaseQuantization;
pub use stored_weights::StoredWeights;

/// What can be wrong with a base model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store or the cache failed.
    #[error(transparent)]
    Store(#[from] finetune_artifacts::Error),
    /// A safetensors file is at fault.
    #[error(transparent)]
    Safetensors(#[from] finetune_artifacts::safetensors_file::Error),
    /// A GGUF file is at fault.
    #[error(transparent)]
    Gguf(#[from] finetune_artifacts::gguf::Error),
    /// The tokenizer is at fault.
    #[error("the base model's tokenizer: {0}")]
    Tokenizer(#[from] tokenize::Error),
    /// A file lacks something or says something that is not supported.
    #[error("base model {origin}: {message}")]
    Invalid {
        /// The file or key.
        origin: String,
        /// What it is, what was expected, the cure.
        message: String,
    },
}

impl Error {
    pub(crate) fn invalid(origin: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            origin: origin.into(),
            message: message.into(),
        }
    }

    /// The same with the file in front of the key.
    fn within(self, path: &Path) -> Self {
        let path = path.display().to_string();
        match self {
            Self::Invalid { origin, message } if !origin.contains(&path) => {
                Self::invalid(format!("{path}: {origin}"), message)
            }
            other => other,
        }
    }

    /// The class that an outcome carries.
    pub fn reason(&self) -> OutcomeReason {
        match self {
            Self::Store(error) => error.reason(),
            Self::Safetensors(_) | Self::Gguf(_) | Self::Tokenizer(_) | Self::Invalid { .. } => {
                OutcomeReason::InvalidInput
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::new(error.reason(), error.to_string());
        match &error {
            Error::Store(error) => failure.at_store(error),
            _ => failure,
        }
    }
}

/// How much of a base is fetched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fetch {
    /// Configuration and tokenizer. A GGUF file has all in one and is fetched whole.
    WithoutWeights,
    /// Everything.
    Whole,
}

/// Where the files lie on this machine.
#[derive(Clone, Debug)]
enum Place {
    Directory(PathBuf),
    Gguf(PathBuf),
}

/// A base model's files on this machine, with configuration and tokenizer read.
#[derive(Debug)]
pub struct BaseModelFiles {
    place: Place,
    identity: Option<String>,
    revision: Option<String>,
    config: ModelConfig,
    quantization: Option<BaseQuantization>,
    tokenizer: Tokenizer,
}

impl BaseModelFiles {
    /// Fetches the base at `uri`: a folder, or a file that ends in `.gguf`. `file://` is used in place; `hf://` must name a
    /// commit, or its files may be of two.
    pub async fn fetch(
        uri: &str,
        credentials: &Credentials,
        cache: &Cache,
        fetch: Fetch,
    ) -> Result<Self, Error> {
        let (place, entries) = if is_gguf(uri) {
            let (store, name) = Store::open_object(uri, credentials)?;
            let entries = vec![store.entry(&name).await?];
            (Place::Gguf(cache.file(uri, credentials).await?), entries)
        } else {
            if !uri.ends_with('/') && !uri.starts_with("hf://") && hugging_face::is_pickle(uri) {
                return Err(Error::invalid(uri, hugging_face::pickle_fault("it")));
            }
            let mut entries = Store::open(uri, credentials)?.list("").await?;
            let paths = || entries.iter().map(|entry| entry.path.as_str());
            hugging_face::refuse_pickles(uri, paths())?;
            hugging_face::refuse_without_configuration(uri, paths())?;
            let belonging = hugging_face::belonging(paths());
            entries.retain(|entry| belonging.contains(&entry.path));
            let wanted = |path: &str| {
                hugging_face::goes_along(path)
                    || belonging.contains(path)
                        && (fetch == Fetch::Whole || !hugging_face::is_weights(path))
            };
            let folder = cache.directory(uri, credentials, wanted).await?;
            (Place::Directory(folder), entries)
        };
        let mut files = Self::read(place)?;
        files.identity = Some(identity(&entries));
        if let Location::Hub { revision, .. } = Location::parse(uri)? {
            files.revision = revision;
        }
        Ok(files)
    }

    /// Reads a base that is on this machine: a directory, or a `.gguf` file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let place = if path.is_dir() {
            Place::Directory(path.to_owned())
        } else {
            Place::Gguf(path.to_owned())
        };
        Self::read(place)
    }

    fn read(place: Place) -> Result<Self, Error> {
        let (config, quantization, tokenizer) = match &place {
            Place::Directory(folder) => (
                hugging_face_config::read(folder)?,
                quantization::read(&folder.join("config.json"))?,
                Tokenizer::from_directory(folder)?,
            ),
            Place::Gguf(path) => {
                let file = finetune_artifacts::gguf::GgufFile::open(path)?;
                let config = gguf_config::read(&file).map_err(|error| error.within(path))?;
                (config, None, Tokenizer::from_gguf(&file)?)
            }
        };
        if tokenizer.vocabulary_size() as i64 > config.vocabulary_size {
            return Err(Error::invalid(
                "tokenizer",
                format!(
                    "it has {} tokens, the embedding {}: they do not belong together",
                    tokenizer.vocabulary_size(),
                    config.vocabulary_size
                ),
            ));
        }
        Ok(Self {
            place,
            identity: None,
            revision: None,
            config,
            quantization,
            tokenizer,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// How its linear layers are saved in 4 bits, to be taken over as they are; `None` where they are to be quantised, if at
    /// all, as they are loaded.
    pub const fn quantization(&self) -> Option<BaseQuantization> {
        self.quantization
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Its tokenizer, where the files are needed no longer.
    pub fn into_tokenizer(self) -> Tokenizer {
        self.tokenizer
    }

    /// Its weights, checked to be exactly those that the configuration calls for.
    pub fn weights(&self) -> Result<Box<dyn StoredWeights>, Error> {
        Ok(match &self.place {
            Place::Directory(folder) => {
                let quantization = self.quantization;
                Box::new(safetensors_weights::Weights::open(
                    folder,
                    &self.config,
                    quantization,
                )?)
            }
            Place::Gguf(path) => Box::new(gguf::Weights::open(path, &self.config)?),
        })
    }

    /// The digest of the base: of the manifest of configuration, tokenizer and weights; of a GGUF, that of the one file.
    /// Reads every byte.
    pub fn digest(&self) -> Result<String, Error> {
        let (folder, names) = match &self.place {
            Place::Directory(folder) => (folder.as_path(), hugging_face::file_names(folder)?),
            Place::Gguf(path) => {
                let name = path.file_name().and_then(|name| name.to_str());
                let (Some(folder), Some(name)) = (path.parent(), name) else {
                    return Err(Error::invalid(path.display().to_string(), "it is no file"));
                };
                (folder, vec![name.to_owned()])
            }
        };
        Ok(Manifest::of_files(folder, &names)?.digest())
    }

    /// What the store said of the files before they were read; none where they were opened on this machine.
    pub fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    /// The commit of a base on the Hugging Face Hub.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// The files to copy beside the weights of a whole model that was trained from this base: name and content. Those of a
    /// Hugging Face directory are its own, those of a GGUF are written anew.
    pub fn companions(&self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        match &self.place {
            Place::Directory(folder) => hugging_face::companions(folder),
            Place::Gguf(_) => Ok(vec![
                (
                    "config.json".to_owned(),
                    gguf_config::to_hugging_face(&self.config, self.tokenizer.special()),
                ),
                ("tokenizer.json".to_owned(), self.tokenizer.json().to_vec()),
                (
                    "tokenizer_config.json".to_owned(),
                    self.tokenizer.config_json(),
                ),
            ]),
        }
    }

    /// What the job's status says of the base. `digest` is known once the weights were read.
    pub fn status(&self, digest: Option<String>) -> BaseModelStatus {
        BaseModelStatus {
            identity: self.identity.clone(),
            revision: self.revision.clone(),
            digest,
            architecture: Some(self.config.architecture.clone()),
            parameters: Some(self.config.parameters()),
        }
    }
}

/// Whether a URI names a GGUF file.
pub fn is_gguf(uri: &str) -> bool {
    Path::new(uri)
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}
