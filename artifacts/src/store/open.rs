//! From a location and credentials to a client. Nothing is asked of the store here.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use crate::credentials::Credentials;
use crate::error::{Error, Result};
use crate::uri::Location;

use super::hub::Repository;
use super::web::{Source, WebStore};

const ACCESS_KEY: &str = "AWS_ACCESS_KEY_ID";
const SECRET_KEY: &str = "AWS_SECRET_ACCESS_KEY";

/// The client of a location, and the key of its prefix there.
pub(super) fn open(
    location: &Location,
    credentials: &Credentials,
) -> Result<(Arc<dyn ObjectStore>, Key)> {
    match location {
        Location::File { path, .. } => {
            let store = LocalFileSystem::new().with_fsync(true);
            Ok((Arc::new(store), local_key(path)?))
        }
        Location::S3 { bucket, key, .. } => {
            let store = s3(bucket, &location.to_string(), credentials)?;
            let key = Key::parse(key)
                .map_err(|error| Error::invalid(format!("URI `{location}`"), error.to_string()))?;
            Ok((Arc::new(store), key))
        }
        Location::Hub {
            kind,
            repository,
            revision,
            path,
            ..
        } => {
            let repository = Repository::new(*kind, repository, revision.as_deref(), credentials)?;
            let key = Key::parse(path)
                .map_err(|error| Error::invalid(format!("URI `{location}`"), error.to_string()))?;
            Ok((web(location, Source::Hub(repository))?, key))
        }
        Location::Https { url, .. } => {
            let store = web(location, Source::Url(url.clone()))?;
            Ok((store, Key::default()))
        }
    }
}

fn web(location: &Location, source: Source) -> Result<Arc<dyn ObjectStore>> {
    let store = WebStore::new(source)
        .map_err(|error| Error::invalid(format!("URI `{location}`"), error.to_string()))?;
    Ok(Arc::new(store))
}

fn local_key(path: &Path) -> Result<Key> {
    Key::from_absolute_path(path)
        .map_err(|error| Error::invalid(format!("path `{}`", path.display()), error.to_string()))
}

fn s3(bucket: &str, uri: &str, credentials: &Credentials) -> Result<impl ObjectStore + use<>> {
    check_keys(uri, credentials)?;
    check_endpoint(credentials)?;
    // A download may take hours; only silence is a fault. Large uploads go in parts of a few MiB.
    let client = ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(Duration::from_secs(10))
        .with_read_timeout(Duration::from_mins(1));
    // One lost part must not cost a whole upload, so requests are tried again at this level too.
    let retry = RetryConfig {
        max_retries: 3,
        retry_timeout: Duration::from_mins(3),
        backoff: BackoffConfig {
            max_backoff: Duration::from_secs(5),
            ..BackoffConfig::default()
        },
    };
    let mut builder = AmazonS3Builder::new()
        .with_client_options(client)
        .with_retry(retry);
    for (name, value) in credentials.iter() {
        if let Some(key) = setting(name) {
            builder = builder.with_config(key, value);
        }
    }
    builder.with_bucket_name(bucket).build().map_err(|error| {
        Error::invalid(
            format!("{} for {uri}", credentials.origin()),
            error.to_string(),
        )
    })
}

/// The client's key for a name of ours. What is not a setting of the client, such as `AWS_PROFILE`, is left out, as is
/// the bucket, which comes from the URI.
fn setting(name: &str) -> Option<AmazonS3ConfigKey> {
    let key = name
        .starts_with("AWS_")
        .then(|| name.to_ascii_lowercase().parse().ok())??;
    (!matches!(key, AmazonS3ConfigKey::Bucket)).then_some(key)
}

/// A named Secret must hold both keys; the environment may hold none and leave it to the pod's identity.
fn check_keys(uri: &str, credentials: &Credentials) -> Result<()> {
    let missing: Vec<_> = [ACCESS_KEY, SECRET_KEY]
        .into_iter()
        .filter(|key| credentials.get(key).is_none_or(str::is_empty))
        .collect();
    let complete = missing.is_empty() || (missing.len() == 2 && !credentials.is_secret());
    if complete {
        return Ok(());
    }
    Err(Error::CredentialsMissing {
        origin: credentials.origin(),
        keys: missing.join(" and "),
        uri: uri.to_owned(),
        cure: "add what is missing".into(),
    })
}

fn check_endpoint(credentials: &Credentials) -> Result<()> {
    let plain = credentials
        .get("AWS_ENDPOINT_URL")
        .is_some_and(|endpoint| endpoint.starts_with("http://"));
    let allowed = credentials.get("AWS_ALLOW_HTTP") == Some("true");
    if plain && !allowed {
        return Err(Error::invalid(
            format!("AWS_ENDPOINT_URL in {}", credentials.origin()),
            "is plain http, which shows the keys to the network: use https, or set AWS_ALLOW_HTTP to `true`",
        ));
    }
    Ok(())
}
