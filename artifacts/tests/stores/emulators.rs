//! The emulators that Microsoft and others keep of the two stores. `make stores` starts them, makes the bucket and says where
//! they are.

use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::publish::publish;
use finetune_artifacts::store::Store;

use super::promises;

fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; run `make stores`"))
}

/// A folder of its own, so that the test can be run again.
fn root(scheme: &str) -> String {
    let id = std::process::id();
    format!("{scheme}://models/run-{id}/")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs azurite: run `make stores`"]
async fn azurite_keeps_what_is_promised_of_every_store() {
    environment("AZURE_STORAGE_ENDPOINT");
    promises::are_kept(&root("az"), &Credentials::from_environment()).await;
}

/// It takes no writes over the XML API that the client speaks, so what is read was put there over its JSON API.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs fake-gcs-server: run `make stores`"]
async fn what_fake_gcs_server_holds_is_listed_and_read() {
    let endpoint = environment("GOOGLE_BASE_URL");
    let folder = tempfile::tempdir().unwrap();
    let local = promises::adapter(folder.path());
    let results = folder.path().join("results");
    let here = Store::open(
        &format!("file://{}/", results.display()),
        &Credentials::default(),
    )
    .unwrap();
    let mut published = publish(&here, "team-a/tone", &local).await.unwrap();
    let root = root("gs");
    let prefix = root.strip_prefix("gs://models/").unwrap();
    let mut expected = Vec::new();
    for entry in here.list("").await.unwrap() {
        let name = format!("{prefix}{}", entry.path);
        let url = url::Url::parse_with_params(
            &format!("{endpoint}/upload/storage/v1/b/models/o"),
            [("uploadType", "media"), ("name", &name)],
        )
        .unwrap();
        let answer = reqwest::Client::new()
            .post(url)
            .body(std::fs::read(results.join(&entry.path)).unwrap())
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        expected.push((entry.path, entry.size));
    }
    let credentials = Credentials::from_environment();
    let store = Store::open(&root, &credentials).unwrap();
    let listed = store.list("").await.unwrap();
    let listed: Vec<_> = listed
        .into_iter()
        .map(|entry| (entry.path, entry.size))
        .collect();
    assert_eq!(listed, expected);
    published.uri = published.uri.replace(&here.uri(), &root);
    promises::is_read_back(&published, &local, &credentials).await;
}
