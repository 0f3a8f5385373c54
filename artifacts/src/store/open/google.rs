//! A client of Google Cloud Storage, or of a store that speaks its XML API.

use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder, GoogleConfigKey};
use serde::Deserialize;

use super::{check_endpoint, patience, retries, settings, unusable};
use crate::credentials::Credentials;
use crate::error::{Error, Result};

pub(super) const KEY: &str = "GOOGLE_SERVICE_ACCOUNT_KEY";
const ENDPOINT: &str = "GOOGLE_BASE_URL";
const ALLOW_HTTP: &str = "GOOGLE_ALLOW_HTTP";

/// A service account's key as Google hands it out, as far as it is looked at here.
#[derive(Deserialize)]
#[expect(dead_code, reason = "they must be there, whatever they are")]
struct ServiceAccountKey {
    private_key: String,
    private_key_id: String,
    client_email: String,
    /// Not Google's: by it, tools point a key at another store.
    gcs_base_url: Option<String>,
}

pub(super) fn client(
    bucket: &str,
    uri: &str,
    credentials: &Credentials,
) -> Result<GoogleCloudStorage> {
    check_endpoint(credentials, ENDPOINT, credentials.get(ENDPOINT), ALLOW_HTTP)?;
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_client_options(patience())
        .with_retry(retries());
    let mut has_key = false;
    for (key, value) in settings(credentials, "GOOGLE_") {
        match key {
            // The bucket comes from the URI.
            GoogleConfigKey::Bucket => continue,
            // A Secret holds keys; what it says must not be read from the pod's files.
            GoogleConfigKey::ServiceAccount | GoogleConfigKey::ApplicationCredentials
                if credentials.is_secret() =>
            {
                continue;
            }
            GoogleConfigKey::ServiceAccountKey => {
                check_key(credentials, &value)?;
                has_key = true;
            }
            GoogleConfigKey::BearerToken => has_key = true,
            GoogleConfigKey::SkipSignature if value == "true" => {
                // Else the client would write with the pod's own identity what it reads without any.
                builder = builder.with_bearer_token("");
                has_key = true;
            }
            _ => {}
        }
        builder = builder.with_config(key, value);
    }
    if credentials.is_secret() && !has_key {
        return Err(Error::CredentialsMissing {
            origin: credentials.origin(),
            keys: KEY.into(),
            uri: uri.to_owned(),
            cure: "add it: the JSON of a service account's key as its value".into(),
        });
    }
    builder
        .with_bucket_name(bucket)
        .build()
        .map_err(|error| unusable(credentials, uri, &error))
}

/// Where a key points to, if it says so.
pub(super) fn base_url_of(json: &str) -> Option<String> {
    serde_json::from_str::<ServiceAccountKey>(json)
        .ok()?
        .gcs_base_url
}

/// That the key is one, and where it points to. The client's own message would quote what it cannot read.
fn check_key(credentials: &Credentials, json: &str) -> Result<()> {
    let key: ServiceAccountKey = serde_json::from_str(json).map_err(|_| {
        Error::invalid(
            format!("{KEY} in {}", credentials.origin()),
            "is no key of a service account, expected the JSON that Google hands out, with `private_key`, \
             `private_key_id` and `client_email`",
        )
    })?;
    check_endpoint(
        credentials,
        &format!("gcs_base_url of {KEY}"),
        key.gcs_base_url.as_deref(),
        ALLOW_HTTP,
    )
}
