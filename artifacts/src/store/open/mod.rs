//! From a location and credentials to a client. Nothing is asked of the store here.
//!
//! One file a provider. What they share is here: how patient a client is, and that keys go over plain HTTP only where
//! whoever wrote the keys allows it.

mod azure;
mod google;
mod s3;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use crate::credentials::Credentials;
use crate::error::{Error, Result};
use crate::uri::{Location, Provider};

use super::claims::{self, ClaimStore};
use super::hub::Repository;
use super::web::{Source, WebStore};

/// The client of a location, and the key of its prefix there.
pub(super) fn open(
    location: &Location,
    credentials: &Credentials,
) -> Result<(Arc<dyn ObjectStore>, Key)> {
    match location {
        Location::File { path, .. } => local(path),
        Location::Claim { claim, path, .. } => {
            let volume = claims::folder_of(claim)?;
            let key = absolute_key(&volume.join(path))?;
            Ok((Arc::new(ClaimStore::new(volume)), key))
        }
        Location::Bucket {
            provider,
            bucket,
            key,
            ..
        } => {
            let uri = location.to_string();
            let store: Arc<dyn ObjectStore> = match provider {
                Provider::S3 => Arc::new(s3::client(bucket, &uri, credentials)?),
                Provider::Google => Arc::new(google::client(bucket, &uri, credentials)?),
                Provider::Azure => Arc::new(azure::client(bucket, &uri, credentials)?),
            };
            Ok((store, parse_key(location, key)?))
        }
        Location::Hub {
            kind,
            repository,
            revision,
            path,
            ..
        } => {
            let repository = Repository::new(*kind, repository, revision.as_deref(), credentials)?;
            let store = WebStore::new(Source::Hub(repository), location)?;
            Ok((Arc::new(store), parse_key(location, path)?))
        }
        Location::Https { url, .. } => {
            let store = WebStore::new(Source::Url(url.clone()), location)?;
            Ok((Arc::new(store), Key::default()))
        }
    }
}

fn local(path: &Path) -> Result<(Arc<dyn ObjectStore>, Key)> {
    let key = absolute_key(path)?;
    Ok((Arc::new(LocalFileSystem::new().with_fsync(true)), key))
}

fn absolute_key(path: &Path) -> Result<Key> {
    Key::from_absolute_path(path)
        .map_err(|error| Error::invalid(format!("path `{}`", path.display()), error.to_string()))
}

fn parse_key(location: &Location, key: &str) -> Result<Key> {
    Key::parse(key).map_err(|error| Error::invalid(format!("URI `{location}`"), error.to_string()))
}

/// How long a client waits.
fn patience() -> ClientOptions {
    // A download may take hours; only silence is a fault. Large uploads go in parts of a few MiB.
    ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(Duration::from_secs(10))
        .with_read_timeout(Duration::from_mins(1))
}

/// How often a client tries again by itself.
fn retries() -> RetryConfig {
    // One lost part must not cost a whole upload, so requests are tried again at this level too.
    RetryConfig {
        max_retries: 3,
        retry_timeout: Duration::from_mins(3),
        backoff: BackoffConfig {
            max_backoff: Duration::from_secs(5),
            ..BackoffConfig::default()
        },
    }
}

/// The settings among the credentials whose names begin with `prefix`, as `parse` reads them in lower case. What it does
/// not know, such as `AWS_PROFILE`, is left out, and so is what is empty.
fn settings<K: std::str::FromStr>(credentials: &Credentials, prefix: &str) -> Vec<(K, String)> {
    credentials
        .iter()
        .filter(|(name, value)| name.starts_with(prefix) && !value.is_empty())
        .filter_map(|(name, value)| {
            Some((name.to_ascii_lowercase().parse().ok()?, value.to_owned()))
        })
        .collect()
}

/// The settings of a provider that say which server answers: its address, region and account, what stands between, and whether
/// its certificate counts. By all names that a client knows, in upper case as it reads them, sorted.
pub(super) fn server(credentials: &Credentials, prefix: &str) -> Vec<(String, String)> {
    const PARTS: [&str; 6] = [
        "ENDPOINT",
        "BASE_URL",
        "REGION",
        "ACCOUNT_NAME",
        "PROXY",
        "CERTIFICATE",
    ];
    let mut found: Vec<_> = credentials
        .iter()
        .map(|(name, value)| (name.to_ascii_uppercase(), value))
        .filter(|(name, value)| {
            name.starts_with(prefix)
                && !value.is_empty()
                && PARTS.iter().any(|part| name.contains(part))
        })
        .map(|(name, value)| (name, value.trim_end_matches('/').to_owned()))
        .collect();
    // Within a key, tools point it at another store.
    let inside = credentials.get(google::KEY).and_then(google::base_url_of);
    found.extend(
        inside
            .filter(|_| google::KEY.starts_with(prefix))
            .map(|url| (google::KEY.to_owned(), url)),
    );
    found.sort();
    found
}

/// Refuses an endpoint over plain HTTP, unless `allow` is `true` beside it. `name` is the setting that holds it.
fn check_endpoint(
    credentials: &Credentials,
    name: &str,
    endpoint: Option<&str>,
    allow: &str,
) -> Result<()> {
    let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    if plain && credentials.get(allow) != Some("true") {
        return Err(Error::invalid(
            format!("{name} in {}", credentials.origin()),
            format!(
                "is plain http, which shows the keys to the network: use https, or set {allow} to `true`"
            ),
        ));
    }
    Ok(())
}

/// Our error for settings with which no client can be built.
fn unusable(credentials: &Credentials, uri: &str, error: &object_store::Error) -> Error {
    Error::invalid(
        format!("{} for {uri}", credentials.origin()),
        error.to_string(),
    )
}
