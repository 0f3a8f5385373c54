//! What is said where keys are missing, wrong, or on their way to the wrong place.

use std::path::Path;

use finetune_artifacts::credentials::{Credentials, Usage};
use finetune_artifacts::store::Store;
use finetune_crds::contract::OutcomeReason;
use rstest::rstest;

use super::azure::{self, Azure};
use super::google::{self, Google};

/// A mounted Secret `team-store`.
fn secret(root: &Path, settings: &[(String, String)]) -> Credentials {
    let folder = root.join(Usage::Base.folder());
    std::fs::create_dir_all(&folder).unwrap();
    for (name, value) in settings {
        std::fs::write(folder.join(name), value).unwrap();
    }
    Credentials::resolve(Some(root), Usage::Base, Some("team-store"), []).unwrap()
}

fn without(settings: Vec<(String, String)>, name: &str) -> Vec<(String, String)> {
    let mut settings = settings;
    settings.retain(|(each, _)| each != name);
    settings
}

#[rstest]
#[case(
    "gs://models/a/",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_SERVICE_ACCOUNT_KEY"
)]
#[case(
    "az://models/a/",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_NAME"
)]
#[case(
    "az://models/a/",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN"
)]
fn a_named_secret_that_lacks_a_key_is_an_error_before_any_request(
    #[case] uri: &str,
    #[case] lost: &str,
    #[case] said: &str,
) {
    let root = tempfile::tempdir().unwrap();
    let settings = if uri.starts_with("gs") {
        google::settings("https://store.example", &google::service_account_key())
    } else {
        azure::settings(
            "https://store.example",
            ("AZURE_STORAGE_ACCOUNT_KEY", azure::KEY),
        )
    };
    let error = Store::open(uri, &secret(root.path(), &without(settings, lost))).unwrap_err();
    assert_eq!(error.reason(), OutcomeReason::Credentials, "{error}");
    for expected in ["Secret `team-store` lacks", said, uri] {
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_secret_without_a_key_may_say_that_the_pods_own_identity_is_meant() {
    let root = tempfile::tempdir().unwrap();
    let settings = azure::settings("", ("AZURE_CREDENTIAL_TYPE", "managed_identity"));
    Store::open("az://models/a/", &secret(root.path(), &settings)).unwrap();
}

#[rstest]
#[case(
    "AZURE_STORAGE_ENDPOINT",
    "https://store.example",
    "AZURE_STORAGE_ENDPOINT in Secret `team-store`: stands beside AZURE_CREDENTIAL_TYPE `managed_identity`"
)]
#[case(
    "AZURE_ENDPOINT",
    "https://store.example",
    "AZURE_STORAGE_ENDPOINT in Secret `team-store`: stands beside"
)]
#[case(
    "AZURE_STORAGE_ACCOUNT_NAME",
    "store.example/team",
    "AZURE_STORAGE_ACCOUNT_NAME in Secret `team-store`: is `store.example/team`"
)]
fn a_secret_cannot_have_the_pods_token_shown_to_another_host(
    #[case] name: &str,
    #[case] value: &str,
    #[case] said: &str,
) {
    let root = tempfile::tempdir().unwrap();
    let settings = azure::settings("", ("AZURE_CREDENTIAL_TYPE", "managed_identity"));
    let mut settings = without(settings, name);
    settings.push((name.to_owned(), value.to_owned()));
    let error = Store::open("az://models/a/", &secret(root.path(), &settings)).unwrap_err();
    assert_eq!(error.reason(), OutcomeReason::InvalidInput, "{error}");
    assert!(error.to_string().contains(said), "{error}");
}

#[test]
fn half_a_service_principal_is_an_error_that_names_the_other_half() {
    let parts = ["AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET"];
    let secret_of = |names: &[&str]| {
        let root = tempfile::tempdir().unwrap();
        let mut settings = azure::settings("", ("AZURE_ALLOW_HTTP", "false"));
        settings.extend(
            names
                .iter()
                .map(|name| ((*name).to_owned(), "value".to_owned())),
        );
        secret(root.path(), &settings)
    };
    for (given, missing) in [
        (&parts[2..], "lacks AZURE_CLIENT_ID and AZURE_TENANT_ID,"),
        (&parts[1..], "lacks AZURE_CLIENT_ID,"),
        (&parts[..2], "lacks AZURE_STORAGE_ACCOUNT_KEY"),
    ] {
        let error = Store::open("az://models/a/", &secret_of(given)).unwrap_err();
        assert_eq!(error.reason(), OutcomeReason::Credentials, "{error}");
        assert!(error.to_string().contains(missing), "{error}");
    }
    Store::open("az://models/a/", &secret_of(&parts)).unwrap();
}

#[rstest]
#[case("GOOGLE_SERVICE_ACCOUNT", "/etc/passwd")]
#[case("GOOGLE_APPLICATION_CREDENTIALS", "/etc/passwd")]
fn a_secret_cannot_point_at_files_of_the_pod(#[case] name: &str, #[case] path: &str) {
    let root = tempfile::tempdir().unwrap();
    let settings = [(name.to_owned(), path.to_owned())];
    let error = Store::open("gs://models/a/", &secret(root.path(), &settings))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("lacks GOOGLE_SERVICE_ACCOUNT_KEY"),
        "{error}"
    );
}

#[test]
fn plain_http_needs_to_be_allowed_wherever_the_endpoint_stands() {
    let endpoint = "http://store.example:4443";
    let mut inside: serde_json::Value =
        serde_json::from_str(&google::service_account_key()).unwrap();
    inside["gcs_base_url"] = endpoint.into();
    let key = ("AZURE_STORAGE_ACCOUNT_KEY", azure::KEY);
    let key_of_google = google::service_account_key();
    for (uri, allow, settings) in [
        (
            "gs://models/a/",
            "GOOGLE_ALLOW_HTTP",
            google::settings(endpoint, &key_of_google),
        ),
        (
            "gs://models/a/",
            "GOOGLE_ALLOW_HTTP",
            google::settings("", &inside.to_string()),
        ),
        (
            "az://models/a/",
            "AZURE_ALLOW_HTTP",
            azure::settings(endpoint, key),
        ),
    ] {
        Store::open(uri, &Credentials::from_values(settings.clone())).unwrap();
        let settings = without(settings, allow);
        let error = Store::open(uri, &Credentials::from_values(settings)).unwrap_err();
        assert_eq!(error.reason(), OutcomeReason::InvalidInput, "{error}");
        assert!(error.to_string().contains(allow), "{error}");
    }
}

#[test]
fn a_key_that_is_none_is_not_quoted() {
    let settings = google::settings("", "\"hidden-value\"");
    let error = Store::open("gs://models/a/", &Credentials::from_values(settings))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("GOOGLE_SERVICE_ACCOUNT_KEY in the environment")
            && !error.contains("hidden"),
        "{error}"
    );
}

#[tokio::test]
async fn a_missing_bucket_a_missing_object_and_a_refused_key_are_told_apart() {
    let (google, azure) = (Google::start().await, Azure::start().await);
    let endpoint = google.server.uri();
    let mut wrong_google = google.settings();
    wrong_google.push(("GOOGLE_BEARER_TOKEN".to_owned(), "wrong".to_owned()));
    let wrong_azure = azure::settings(&azure.server.uri(), ("AZURE_STORAGE_TOKEN", "wrong"));
    for (scheme, right, wrong, bucket, keys) in [
        (
            "gs",
            google.credentials(),
            wrong_google,
            format!("bucket `absent` does not exist at {endpoint}"),
            "GOOGLE_SERVICE_ACCOUNT_KEY",
        ),
        (
            "az",
            azure.credentials(),
            wrong_azure,
            format!(
                "container `absent` does not exist at {}",
                azure.server.uri()
            ),
            "AZURE_STORAGE_ACCOUNT_KEY",
        ),
    ] {
        let absent = Store::open(&format!("{scheme}://absent/a/"), &right).unwrap();
        for error in [
            absent.read("b").await.unwrap_err(),
            absent.list("").await.unwrap_err(),
            absent.create("b", "x".into()).await.unwrap_err(),
        ] {
            assert_eq!(error.reason(), OutcomeReason::NotFound, "{error}");
            assert!(error.to_string().contains(&bucket), "{error}");
        }
        let uri = format!("{scheme}://models/a/");
        let store = Store::open(&uri, &right).unwrap();
        let error = store.read("b").await.unwrap_err().to_string();
        assert!(error.contains(&format!("{uri}b does not exist")), "{error}");
        let refused = Store::open(&uri, &Credentials::from_values(wrong)).unwrap();
        for error in [
            refused.read("b").await.unwrap_err(),
            refused.list("").await.unwrap_err(),
            refused.write("b", "x".into()).await.unwrap_err(),
        ] {
            assert_eq!(error.reason(), OutcomeReason::Credentials, "{error}");
            assert!(error.to_string().contains(keys), "{error}");
        }
    }
}

#[tokio::test]
async fn a_shared_access_signature_is_sent_and_never_shown() {
    let azure = Azure::start().await;
    let token = "sv=2024-11-04&sp=rl&sig=hidden-value";
    let settings = azure::settings(&azure.server.uri(), ("AZURE_STORAGE_SAS_TOKEN", token));
    let store = Store::open("az://models/a/", &Credentials::from_values(settings)).unwrap();
    store.write("b", "x".into()).await.unwrap();
    assert_eq!(store.read("b").await.unwrap(), "x");
    azure.contents.lock().faults = usize::MAX;
    let error = store.list("").await.unwrap_err().to_string();
    assert!(!error.contains("hidden-value"), "{error}");
}
