//! A client of Azure Blob Storage, or of a store that speaks its API.

use object_store::azure::{AzureConfigKey, MicrosoftAzure, MicrosoftAzureBuilder};

use super::{check_endpoint, patience, retries, settings, unusable};
use crate::credentials::Credentials;
use crate::error::{Error, Result};

const ACCOUNT: &str = "AZURE_STORAGE_ACCOUNT_NAME";
const CREDENTIAL_TYPE: &str = "AZURE_CREDENTIAL_TYPE";
const ENDPOINTS: [&str; 2] = ["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"];
const ALLOW_HTTP: &str = "AZURE_ALLOW_HTTP";
/// The types of credentials that are the pod's own.
const IDENTITIES: [&str; 2] = ["workload_identity", "managed_identity"];
/// What a platform puts into the environment of a pod that has an identity.
const IDENTITY_SETTINGS: [&str; 4] = [
    "AZURE_CLIENT_ID",
    "AZURE_TENANT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
];

pub(super) fn client(
    container: &str,
    uri: &str,
    credentials: &Credentials,
) -> Result<MicrosoftAzure> {
    for endpoint in ENDPOINTS {
        check_endpoint(credentials, endpoint, credentials.get(endpoint), ALLOW_HTTP)?;
    }
    check_account(uri, credentials)?;
    let mut settings: Vec<(AzureConfigKey, String)> = settings(credentials, "AZURE_");
    // A Secret holds keys; what it says must not be read from the pod's files or programs.
    settings.retain(|(key, _)| match key {
        // The container comes from the URI, and an emulator has an endpoint like any store.
        AzureConfigKey::ContainerName | AzureConfigKey::UseEmulator => false,
        AzureConfigKey::FederatedTokenFile | AzureConfigKey::UseAzureCli => {
            !credentials.is_secret()
        }
        _ => true,
    });
    if credentials.is_secret() {
        check_keys(uri, credentials, &settings)?;
        if is_identity(credentials) {
            let environment = Credentials::from_environment();
            settings.extend(
                IDENTITY_SETTINGS
                    .into_iter()
                    .filter(|name| credentials.get(name).is_none())
                    .filter_map(|name| {
                        let key = name.to_ascii_lowercase().parse().ok()?;
                        Some((key, environment.get(name)?.to_owned()))
                    }),
            );
        }
    }
    let mut builder = MicrosoftAzureBuilder::new()
        .with_client_options(patience())
        .with_retry(retries());
    for (key, value) in settings {
        builder = builder.with_config(key, value);
    }
    builder
        .with_container_name(container)
        .build()
        .map_err(|error| unusable(credentials, uri, &error))
}

/// The account is no part of the URI: it says to whom the key is shown.
fn check_account(uri: &str, credentials: &Credentials) -> Result<()> {
    if credentials
        .get(ACCOUNT)
        .is_some_and(|account| !account.is_empty())
    {
        return Ok(());
    }
    Err(Error::CredentialsMissing {
        origin: credentials.origin(),
        keys: ACCOUNT.into(),
        uri: uri.to_owned(),
        cure: format!(
            "add it; in a cluster, to the Secret that the job names for it (with {CREDENTIAL_TYPE} `{}` and no key in \
             it where the pod's own identity is to be used)",
            IDENTITIES[0]
        ),
    })
}

/// A named Secret must say how the store is asked: the pod's own identity must not stand in for a missing key in silence.
fn check_keys(
    uri: &str,
    credentials: &Credentials,
    settings: &[(AzureConfigKey, String)],
) -> Result<()> {
    let given = settings.iter().any(|(key, value)| match key {
        AzureConfigKey::AccessKey
        | AzureConfigKey::SasKey
        | AzureConfigKey::Token
        | AzureConfigKey::ClientSecret => true,
        AzureConfigKey::SkipSignature => value == "true",
        _ => false,
    });
    if given || is_identity(credentials) {
        return Ok(());
    }
    Err(Error::CredentialsMissing {
        origin: credentials.origin(),
        keys: "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN".into(),
        uri: uri.to_owned(),
        cure: format!(
            "add one of them, or {CREDENTIAL_TYPE} with `{}` to use the pod's own identity",
            IDENTITIES[0]
        ),
    })
}

fn is_identity(credentials: &Credentials) -> bool {
    credentials
        .get(CREDENTIAL_TYPE)
        .is_some_and(|kind| IDENTITIES.contains(&kind))
}
