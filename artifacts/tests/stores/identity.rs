//! The pod's own identity in Azure: whoever writes a Secret may say that it is used, and not where its token goes.

use std::path::Path;

use rstest::rstest;
use wiremock::MockServer;

use super::azure;
use super::process::fetched;

#[rstest]
#[case::managed("managed_identity", "AZURE_MSI_ENDPOINT", true)]
#[case::managed_by_another_name("managed_identity", "AZURE_IDENTITY_ENDPOINT", true)]
#[case::federated("workload_identity", "AZURE_AUTHORITY_HOST", false)]
#[case::federated_by_another_name("workload_identity", "AZURE_STORAGE_AUTHORITY_HOST", false)]
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_where_the_environment_says_and_never_where_a_secret_does(
    #[case] kind: &str,
    #[case] setting: &str,
    #[case] ours_is_asked: bool,
) {
    // They know no route, so that no store is asked afterwards.
    let (theirs, ours) = (MockServer::start().await, MockServer::start().await);
    let root = tempfile::tempdir().unwrap();
    let secret = root.path().join("secret");
    std::fs::create_dir(&secret).unwrap();
    let write = |name: &str, value: &str| std::fs::write(secret.join(name), value).unwrap();
    for (name, value) in azure::settings("", ("AZURE_CREDENTIAL_TYPE", kind)) {
        write(&name, &value);
    }
    write(setting, &theirs.uri());
    let token = root.path().join("token");
    std::fs::write(&token, "hidden").unwrap();
    let ours_uri = ours.uri();
    let environment = [
        ("AZURE_CLIENT_ID", "client"),
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_FEDERATED_TOKEN_FILE", token.to_str().unwrap()),
        ("AZURE_AUTHORITY_HOST", &ours_uri),
        ("AZURE_MSI_ENDPOINT", &ours_uri),
    ];
    let cache: &Path = &root.path().join("cache");
    fetched("az://models/a", cache, Some(&secret), &environment).unwrap_err();
    let asked = theirs.received_requests().await.unwrap();
    assert!(asked.is_empty(), "{asked:?}");
    if ours_is_asked {
        assert!(!ours.received_requests().await.unwrap().is_empty());
    }
}
