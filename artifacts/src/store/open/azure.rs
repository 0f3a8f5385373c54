//! A client of Azure Blob Storage, or of a store that speaks its API.

use object_store::azure::{AzureConfigKey, MicrosoftAzure, MicrosoftAzureBuilder};

use super::{check_endpoint, patience, retries, settings, unusable};
use crate::credentials::Credentials;
use crate::error::{Error, Result};

const ACCOUNT: &str = "AZURE_STORAGE_ACCOUNT_NAME";
const CREDENTIAL_TYPE: &str = "AZURE_CREDENTIAL_TYPE";
const ENDPOINTS: [&str; 2] = ["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"];
const ALLOW_HTTP: &str = "AZURE_ALLOW_HTTP";
/// What a service principal signs in with, each by itself worth nothing.
const SERVICE_PRINCIPAL: [(AzureConfigKey, &str); 3] = [
    (AzureConfigKey::ClientId, "AZURE_CLIENT_ID"),
    (AzureConfigKey::AuthorityId, "AZURE_TENANT_ID"),
    (AzureConfigKey::ClientSecret, "AZURE_CLIENT_SECRET"),
];
/// The types of credentials that are the pod's own.
const IDENTITIES: [&str; 2] = ["workload_identity", "managed_identity"];
/// What a platform puts into the environment of a pod that has an identity.
const IDENTITY_SETTINGS: [&str; 5] = [
    "AZURE_CLIENT_ID",
    "AZURE_TENANT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
    "AZURE_MSI_ENDPOINT",
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
    settings.retain(|(key, value)| match key {
        // The container comes from the URI, and an emulator has an endpoint like any store.
        AzureConfigKey::ContainerName | AzureConfigKey::UseEmulator => false,
        AzureConfigKey::FederatedTokenFile | AzureConfigKey::UseAzureCli => {
            !credentials.is_secret()
        }
        AzureConfigKey::CredentialType => !(credentials.is_secret() && value == "azure_cli"),
        _ => true,
    });
    if credentials.is_secret() {
        match identity(credentials) {
            Some(kind) => settings = of_identity(kind, credentials, settings)?,
            None => check_keys(uri, credentials, &settings)?,
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

/// The settings with which the pod's own identity is used. Whoever wrote the Secret says which account and which identity; to
/// whom the pod's token is shown, by which proxy and certificates, the environment says alone.
fn of_identity(
    kind: &str,
    credentials: &Credentials,
    mut settings: Vec<(AzureConfigKey, String)>,
) -> Result<Vec<(AzureConfigKey, String)>> {
    let fault = |name: &str, problem: String| {
        Error::invalid(format!("{name} in {}", credentials.origin()), problem)
    };
    for (key, value) in &settings {
        match key {
            AzureConfigKey::Endpoint => {
                return Err(fault(
                    ENDPOINTS[0],
                    format!(
                        "stands beside {CREDENTIAL_TYPE} `{kind}`, and the token of the pod's own identity goes to Azure's own \
                         hosts alone: remove it, or give a key in place of the identity"
                    ),
                ));
            }
            // It becomes a part of the host's name.
            AzureConfigKey::AccountName if !is_account(value) => {
                return Err(fault(
                    ACCOUNT,
                    format!("is `{value}`, expected an account's name: 3 to 24 of a-z and 0-9"),
                ));
            }
            _ => {}
        }
    }
    settings.retain(|(key, _)| {
        matches!(
            key,
            AzureConfigKey::AccountName
                | AzureConfigKey::CredentialType
                | AzureConfigKey::ClientId
                | AzureConfigKey::AuthorityId
                | AzureConfigKey::ObjectId
                | AzureConfigKey::MsiResourceId
                | AzureConfigKey::DisableTagging
                | AzureConfigKey::EncryptionKey
        )
    });
    let environment = Credentials::from_environment();
    for name in IDENTITY_SETTINGS {
        let parsed = name.to_ascii_lowercase().parse::<AzureConfigKey>();
        let (Ok(key), Some(value)) = (parsed, environment.get(name)) else {
            continue;
        };
        if settings.iter().all(|(given, _)| *given != key) {
            settings.push((key, value.to_owned()));
        }
    }
    Ok(settings)
}

fn is_account(name: &str) -> bool {
    (3..=24).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// A named Secret must say how the store is asked: the pod's own identity must not stand in for a missing key in silence.
fn check_keys(
    uri: &str,
    credentials: &Credentials,
    settings: &[(AzureConfigKey, String)],
) -> Result<()> {
    let has = |wanted: AzureConfigKey| settings.iter().any(|(key, _)| *key == wanted);
    let unsigned = settings
        .iter()
        .any(|(key, value)| *key == AzureConfigKey::SkipSignature && value == "true");
    let service_principal: Vec<_> = SERVICE_PRINCIPAL
        .into_iter()
        .filter(|(key, _)| !has(*key))
        .map(|(_, name)| name)
        .collect();
    let given = unsigned
        || service_principal.is_empty()
        || has(AzureConfigKey::AccessKey)
        || has(AzureConfigKey::SasKey)
        || has(AzureConfigKey::Token);
    if given {
        return Ok(());
    }
    let missing = |keys: String, cure: String| Error::CredentialsMissing {
        origin: credentials.origin(),
        keys,
        uri: uri.to_owned(),
        cure,
    };
    if has(AzureConfigKey::ClientSecret) {
        return Err(missing(
            service_principal.join(" and "),
            format!(
                "add what is missing, since a service principal has {}, or give another key",
                SERVICE_PRINCIPAL.map(|(_, name)| name).join(", ")
            ),
        ));
    }
    Err(missing(
        "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN".into(),
        format!(
            "add one of them, or {CREDENTIAL_TYPE} with `{}` to use the pod's own identity",
            IDENTITIES[0]
        ),
    ))
}

/// The type of the pod's own identity, where the credentials say that it is meant.
fn identity(credentials: &Credentials) -> Option<&str> {
    credentials
        .get(CREDENTIAL_TYPE)
        .filter(|kind| IDENTITIES.contains(kind))
}
