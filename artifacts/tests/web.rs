//! Reading from the Hugging Face Hub and over https, against a server that speaks the Hub's API: a repository with two
//! commits, pages of a listing, a large file that is redirected to another host, and connections that break.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test, a panic is the report"
)]

use finetune_artifacts::cache::Cache;
use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::store::{self, Store};
use finetune_crds::contract::OutcomeReason;
use serde_json::json;
use wiremock::matchers::{header, header_exists, method, path, query_param};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

const COMMIT: &str = "1111111111111111111111111111111111111111";
const NEWER: &str = "2222222222222222222222222222222222222222";
const TOKEN: &str = "hf_hidden";

/// A hub, and the host that it sends large files from.
struct Hub {
    api: MockServer,
    files: MockServer,
}

impl Hub {
    async fn start() -> Self {
        let hub = Self {
            api: MockServer::start().await,
            files: MockServer::start().await,
        };
        hub.branch("main", COMMIT).await;
        hub
    }

    fn credentials(&self) -> Credentials {
        Credentials::from_values([
            ("HF_ENDPOINT".to_owned(), self.api.uri()),
            ("HF_TOKEN".to_owned(), TOKEN.to_owned()),
        ])
    }

    async fn branch(&self, name: &str, commit: &str) {
        Mock::given(method("GET"))
            .and(path(format!("/api/models/org/tiny/revision/{name}")))
            .and(header("authorization", format!("Bearer {TOKEN}").as_str()))
            .respond_with(ResponseTemplate::new(200).set_body_json(json!({ "sha": commit })))
            .mount(&self.api)
            .await;
    }

    /// A listing in two pages.
    async fn tree(&self, weights: &[u8]) {
        let route = format!("/api/models/org/tiny/tree/{COMMIT}");
        let next = format!(
            "<{}{route}?recursive=true&cursor=two>; rel=\"next\"",
            self.api.uri()
        );
        Mock::given(method("GET"))
            .and(path(&route))
            .and(query_param("cursor", "two"))
            .respond_with(ResponseTemplate::new(200).set_body_json(json!([
                { "type": "file", "path": "sub/model.safetensors", "size": 130, "oid": "pointer",
                  "lfs": { "oid": "aa", "size": weights.len(), "pointerSize": 130 } },
            ])))
            .with_priority(1)
            .mount(&self.api)
            .await;
        Mock::given(method("GET"))
            .and(path(&route))
            .and(query_param("recursive", "true"))
            .respond_with(
                ResponseTemplate::new(200)
                    .insert_header("Link", next.as_str())
                    .set_body_json(json!([
                        { "type": "directory", "path": "sub", "size": 0, "oid": "tree" },
                        { "type": "file", "path": "config.json", "size": 2, "oid": "blob" },
                    ])),
            )
            .mount(&self.api)
            .await;
    }

    /// A small file, and a large one that lies elsewhere and is sent in ranges.
    async fn contents(&self, weights: &'static [u8]) {
        let root = format!("/org/tiny/resolve/{COMMIT}");
        Mock::given(method("GET"))
            .and(path(format!("{root}/config.json")))
            .and(header("authorization", format!("Bearer {TOKEN}").as_str()))
            .respond_with(ResponseTemplate::new(200).set_body_bytes(*b"{}"))
            .mount(&self.api)
            .await;
        let away = format!("{}/lfs/aa?signature=hidden", self.files.uri());
        Mock::given(method("GET"))
            .and(path(format!("{root}/sub/model.safetensors")))
            .respond_with(ResponseTemplate::new(302).insert_header("Location", away.as_str()))
            .mount(&self.api)
            .await;
        Mock::given(method("GET"))
            .and(path("/lfs/aa"))
            .respond_with(move |request: &Request| {
                let start = request.headers.get("range").and_then(|range| {
                    range
                        .to_str()
                        .ok()?
                        .strip_prefix("bytes=")?
                        .strip_suffix('-')?
                        .parse()
                        .ok()
                });
                match start {
                    None => ResponseTemplate::new(200).set_body_bytes(weights),
                    Some(start) => ResponseTemplate::new(206)
                        .insert_header(
                            "Content-Range",
                            format!("bytes {start}-{}/{}", weights.len() - 1, weights.len()),
                        )
                        .set_body_bytes(&weights[start..]),
                }
            })
            .mount(&self.files)
            .await;
    }
}

#[tokio::test]
async fn a_branch_is_pinned_to_its_commit_and_stays_there_when_it_moves() {
    let hub = Hub::start().await;
    let credentials = hub.credentials();
    let pinned = store::pin("hf://org/tiny", None, &credentials)
        .await
        .unwrap();
    assert_eq!(pinned, format!("hf://org/tiny@{COMMIT}/"));

    hub.branch("refs%2Fpr%2F1", NEWER).await;
    let other = store::pin("hf://org/tiny/sub/a.gguf", Some("refs/pr/1"), &credentials)
        .await
        .unwrap();
    assert_eq!(other, format!("hf://org/tiny@{NEWER}/sub/a.gguf"));

    hub.branch(COMMIT, COMMIT).await;
    assert_eq!(
        store::pin(&pinned, None, &credentials).await.unwrap(),
        pinned
    );
    assert_eq!(
        store::pin("s3://b-b/a", None, &credentials).await.unwrap(),
        "s3://b-b/a"
    );
    for (uri, revision) in [("s3://b-b/a", "main"), ("hf://org/tiny@v1", "main")] {
        let error = store::pin(uri, Some(revision), &credentials)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("remove"), "{error}");
    }
}

#[tokio::test]
async fn a_repository_is_fetched_into_the_cache_and_the_token_goes_to_its_own_host_only() {
    let hub = Hub::start().await;
    let weights = b"weights of a model";
    hub.tree(weights).await;
    hub.contents(weights).await;
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path());
    let uri = format!("hf://org/tiny@{COMMIT}");
    let local = cache
        .directory(&uri, &hub.credentials(), |_| true)
        .await
        .unwrap();
    assert_eq!(std::fs::read(local.join("config.json")).unwrap(), b"{}");
    assert_eq!(
        std::fs::read(local.join("sub/model.safetensors")).unwrap(),
        weights
    );
    for request in hub.files.received_requests().await.unwrap() {
        assert!(
            !request.headers.contains_key("authorization"),
            "the token left its host"
        );
    }
    let file = cache
        .file(&format!("{uri}/sub/model.safetensors"), &hub.credentials())
        .await
        .unwrap();
    assert_eq!(std::fs::read(file).unwrap(), weights);
}

#[tokio::test]
async fn a_download_that_breaks_goes_on_where_it_stopped() {
    let server = MockServer::start().await;
    let bytes: Vec<u8> = (0..200u8).collect();
    let (first, rest) = (bytes[..80].to_vec(), bytes[80..].to_vec());
    Mock::given(method("GET"))
        .and(header_exists("range"))
        .respond_with(
            ResponseTemplate::new(206)
                .insert_header("Content-Range", "bytes 80-199/200")
                .set_body_bytes(rest),
        )
        .with_priority(1)
        .expect(1)
        .mount(&server)
        .await;
    // The connection ends early: fewer bytes than it says.
    let broken = broken_server(first).await;
    Mock::given(method("GET"))
        .respond_with(ResponseTemplate::new(302).insert_header("Location", broken.as_str()))
        .mount(&server)
        .await;
    let credentials = Credentials::from_values([("HF_ENDPOINT".to_owned(), server.uri())]);
    let store = Store::open(&format!("hf://org/tiny@{COMMIT}"), &credentials).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("a.bin");
    let downloaded = store
        .download("a.bin", &dest, None, &|_, _| {})
        .await
        .unwrap();
    assert_eq!(downloaded.size, 200);
    assert_eq!(std::fs::read(dest).unwrap(), bytes);
}

/// A server that promises 200 bytes, sends these and hangs up. Gives its URL.
async fn broken_server(bytes: Vec<u8>) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/a", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await;
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n";
            let _ = socket.write_all(head).await;
            let _ = socket.write_all(&bytes).await;
            let _ = socket.shutdown().await;
        }
    });
    url
}

#[rstest::rstest]
#[case(401, "RepoNotFound", OutcomeReason::Credentials, "HF_TOKEN")]
#[case(403, "GatedRepo", OutcomeReason::Credentials, "GatedRepo")]
#[case(404, "RevisionNotFound", OutcomeReason::NotFound, "hf://org/tiny")]
#[case(400, "BadRequest", OutcomeReason::InvalidInput, "BadRequest")]
#[tokio::test]
async fn what_the_hub_refuses_says_why(
    #[case] status: u16,
    #[case] code: &str,
    #[case] reason: OutcomeReason,
    #[case] expected: &str,
) {
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .respond_with(ResponseTemplate::new(status).insert_header("X-Error-Code", code))
        .mount(&server)
        .await;
    let credentials = Credentials::from_values([("HF_ENDPOINT".to_owned(), server.uri())]);
    let error = store::pin("hf://org/tiny", None, &credentials)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), reason, "{error}");
    assert!(error.to_string().contains(expected), "{error}");
}

#[tokio::test]
async fn a_token_is_not_sent_over_plain_http_and_nothing_is_written_to_what_is_for_reading() {
    let credentials = Credentials::from_values([
        ("HF_ENDPOINT".to_owned(), "http://mirror.example".to_owned()),
        ("HF_TOKEN".to_owned(), TOKEN.to_owned()),
    ]);
    let error = Store::open("hf://org/tiny", &credentials)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("plain http") && !error.contains(TOKEN),
        "{error}"
    );

    let store = Store::open("hf://org/tiny", &Credentials::default()).unwrap();
    let error = store.write("a", "b".into()).await.unwrap_err().to_string();
    assert!(error.contains("for reading"), "{error}");
    assert!(!format!("{store:?}").contains(TOKEN));
}
