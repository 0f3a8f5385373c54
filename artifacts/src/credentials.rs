//! Keys and endpoints of stores: from a mounted Secret, or from the environment.
//!
//! The endpoint lies with the keys, never in a spec, so that editing a job cannot send them elsewhere. Values never
//! appear in messages or in `Debug`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::uri::{Location, Provider};

/// How the names of all settings of stores begin.
const PREFIXES: [&str; 4] = ["AWS_", "AZURE_", "GOOGLE_", "HF_"];

/// What credentials are for; a folder each below the mount.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Usage {
    /// Reading the base.
    Base,
    /// Reading the data.
    Dataset,
    /// Reading the adapter to go on from.
    InitialAdapter,
    /// Reading and writing results.
    Output,
}

impl Usage {
    /// The folder's name.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Dataset => "dataset",
            Self::InitialAdapter => "initial-adapter",
            Self::Output => "output",
        }
    }
}

/// Names and values as the environment would hold them, and where they came from.
#[derive(Clone, Default)]
pub struct Credentials {
    values: BTreeMap<String, String>,
    origin: Origin,
}

/// Where the values came from.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
enum Origin {
    #[default]
    Environment,
    Secret {
        name: Option<String>,
        folder: PathBuf,
    },
}

impl Credentials {
    /// What the process's environment holds. Without keys in it, the pod's own identity is used.
    pub fn from_environment() -> Self {
        Self::from_values(std::env::vars_os().filter_map(|(name, value)| {
            let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
            PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix))
                .then_some((name, value))
        }))
    }

    /// Given values, as if the environment held them.
    pub fn from_values(values: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            values: values.into_iter().collect(),
            origin: Origin::Environment,
        }
    }

    /// What a mounted Secret holds: a file a key. Line ends at the end of a value are dropped. An absent folder is an
    /// empty one, since an optional mount of an absent Secret is.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        Self::from_secret(folder, None)
    }

    /// Credentials for one use of what `uris` name. Without a reference: the environment. With one: the use's folder below
    /// `folder_root`, and an error that names Secret and keys where that is empty and one of the URIs needs keys. By hand (no
    /// `folder_root`): the environment.
    pub fn resolve<'a>(
        folder_root: Option<&Path>,
        usage: Usage,
        secret_name: Option<&str>,
        uris: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self> {
        let (Some(root), Some(name)) = (folder_root, secret_name) else {
            return Ok(Self::from_environment());
        };
        let credentials = Self::from_secret(&root.join(usage.folder()), Some(name))?;
        if !credentials.values.is_empty() {
            return Ok(credentials);
        }
        let needed = uris.into_iter().find_map(|uri| {
            let keys = keys_of(&Location::parse(uri).ok()?)?;
            Some((uri, keys))
        });
        let Some((uri, keys)) = needed else {
            return Ok(credentials);
        };
        Err(Error::SecretMissing {
            name: name.to_owned(),
            keys,
            uri: uri.to_owned(),
        })
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Where the values came from, for messages.
    pub fn origin(&self) -> String {
        match &self.origin {
            Origin::Environment => "the environment".into(),
            Origin::Secret {
                name: Some(name), ..
            } => format!("Secret `{name}`"),
            Origin::Secret { name: None, folder } => {
                format!("the Secret mounted at {}", folder.display())
            }
        }
    }

    /// Whether a Secret was named: then the pod's own identity must not stand in for missing keys.
    pub(crate) fn is_secret(&self) -> bool {
        matches!(self.origin, Origin::Secret { .. })
    }

    /// All names and values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// As [`Credentials::from_folder`]; `name` is the Secret's, for messages.
    pub fn from_secret(folder: &Path, name: Option<&str>) -> Result<Self> {
        let mut values = BTreeMap::new();
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => Some(entries),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(Error::local("list credentials in", folder, source)),
        };
        for entry in entries.into_iter().flatten() {
            let entry =
                entry.map_err(|source| Error::local("list credentials in", folder, source))?;
            let Ok(key) = entry.file_name().into_string() else {
                continue;
            };
            // A mounted Secret's files are links into `..data`, which is no key itself.
            if key.starts_with('.') || !entry.path().is_file() {
                continue;
            }
            let path = entry.path();
            let value = std::fs::read_to_string(&path)
                .map_err(|source| Error::local("read credential", &path, source))?;
            values.insert(key, value.trim_end_matches(['\r', '\n']).to_owned());
        }
        Ok(Self {
            values,
            origin: Origin::Secret {
                name: name.map(str::to_owned),
                folder: folder.to_owned(),
            },
        })
    }
}

/// The keys with which a location is read; none where it needs none.
const fn keys_of(location: &Location) -> Option<&'static str> {
    match location {
        Location::Bucket { provider, .. } => Some(match provider {
            Provider::S3 => {
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for a store that is not AWS, AWS_ENDPOINT_URL"
            }
            Provider::Google => "GOOGLE_SERVICE_ACCOUNT_KEY",
            Provider::Azure => {
                "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN"
            }
        }),
        Location::Hub { .. } => Some("HF_TOKEN and, for a mirror of the Hub, HF_ENDPOINT"),
        Location::File { .. } | Location::Claim { .. } | Location::Https { .. } => None,
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("origin", &self.origin)
            .field("names", &self.values.keys().collect::<Vec<_>>())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_secret_is_read_without_line_ends_and_data_links() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("output");
        std::fs::create_dir_all(folder.join("..data")).unwrap();
        std::fs::write(folder.join("AWS_ACCESS_KEY_ID"), "me\n").unwrap();
        let credentials =
            Credentials::resolve(Some(root.path()), Usage::Output, Some("models-s3"), []).unwrap();
        assert_eq!(credentials.get("AWS_ACCESS_KEY_ID"), Some("me"));
        assert_eq!(credentials.iter().count(), 1);
        assert_eq!(credentials.origin(), "Secret `models-s3`");
    }

    #[rstest::rstest]
    #[case("s3://data/a", "AWS_SECRET_ACCESS_KEY")]
    #[case("gs://data/a", "GOOGLE_SERVICE_ACCOUNT_KEY")]
    #[case("az://data/a", "AZURE_STORAGE_SAS_TOKEN")]
    #[case("hf://datasets/owner/name", "HF_TOKEN")]
    fn an_empty_folder_is_a_secret_that_is_absent_or_empty_and_names_the_keys_that_the_uri_needs(
        #[case] uri: &str,
        #[case] key: &str,
    ) {
        let root = tempfile::tempdir().unwrap();
        let uris = ["https://host/a.jsonl", "pvc://claim/a", uri];
        let error = Credentials::resolve(Some(root.path()), Usage::Dataset, Some("corp"), uris)
            .unwrap_err()
            .to_string();
        let said = "Secret `corp` is not in the namespace or is empty";
        for expected in [said, uri, key] {
            assert!(error.contains(expected), "{error}");
        }
        let without = Credentials::resolve(
            Some(root.path()),
            Usage::Dataset,
            Some("corp"),
            uris[..2].iter().copied(),
        );
        assert!(without.is_ok(), "neither a URL nor a volume needs a key");
    }

    #[test]
    fn debug_shows_names_only() {
        let credentials = Credentials::from_values([(
            "AWS_SECRET_ACCESS_KEY".to_owned(),
            "hidden-value".to_owned(),
        )]);
        let text = format!("{credentials:?}");
        assert!(
            text.contains("AWS_SECRET_ACCESS_KEY") && !text.contains("hidden-value"),
            "{text}"
        );
    }
}
