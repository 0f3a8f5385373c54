//! A client of AWS S3 and of every store that speaks it.

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};

use super::{check_endpoint, patience, retries, settings, unusable};
use crate::credentials::Credentials;
use crate::error::{Error, Result};

const ACCESS_KEY: &str = "AWS_ACCESS_KEY_ID";
const SECRET_KEY: &str = "AWS_SECRET_ACCESS_KEY";
const ENDPOINT: &str = "AWS_ENDPOINT_URL";
const ALLOW_HTTP: &str = "AWS_ALLOW_HTTP";

pub(super) fn client(bucket: &str, uri: &str, credentials: &Credentials) -> Result<AmazonS3> {
    check_keys(uri, credentials)?;
    check_endpoint(credentials, ENDPOINT, credentials.get(ENDPOINT), ALLOW_HTTP)?;
    let mut builder = AmazonS3Builder::new()
        .with_client_options(patience())
        .with_retry(retries());
    for (key, value) in settings(credentials, "AWS_") {
        // The bucket comes from the URI.
        if !matches!(key, AmazonS3ConfigKey::Bucket) {
            builder = builder.with_config(key, value);
        }
    }
    builder
        .with_bucket_name(bucket)
        .build()
        .map_err(|error| unusable(credentials, uri, &error))
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
