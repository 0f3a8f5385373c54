//! Stores with faults: an S3 server that answers as told, and a store in memory.

use std::sync::atomic::{AtomicU64, Ordering};

use finetune_crds::contract::OutcomeReason;
use object_store::memory::InMemory;
use wiremock::matchers::{header_exists, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;

impl Store {
    /// A store over any client, with short waits.
    pub(crate) fn for_test(inner: Arc<dyn ObjectStore>, uri: &str) -> Self {
        let location = Location::parse(uri).unwrap().into_folder();
        let key = match &location {
            Location::Bucket { key, .. } => key.clone(),
            _ => String::new(),
        };
        Self {
            inner,
            location,
            base: Key::parse(key).unwrap(),
            credentials: Credentials::default(),
            backoff: quick(),
        }
    }
}

fn quick() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(1))
        .with_max_times(3)
}

fn values(endpoint: &str) -> Vec<(String, String)> {
    [
        ("AWS_ACCESS_KEY_ID", "me"),
        ("AWS_SECRET_ACCESS_KEY", "hidden-value"),
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("GOOGLE_BEARER_TOKEN", "hidden-value"),
        ("GOOGLE_BASE_URL", endpoint),
        ("GOOGLE_ALLOW_HTTP", "true"),
        ("AZURE_STORAGE_ACCOUNT_NAME", "team"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "aGlkZGVuLXZhbHVl"),
        ("AZURE_STORAGE_ENDPOINT", endpoint),
        ("AZURE_ALLOW_HTTP", "true"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

fn faulty(server: &MockServer) -> Store {
    let credentials = Credentials::from_values(values(&server.uri()));
    Store {
        backoff: quick(),
        ..Store::open("s3://models/a/", &credentials).unwrap()
    }
}

fn xml(status: u16, code: &str) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_string(format!(
        "<Error><Code>{code}</Code><Message>no</Message></Error>"
    ))
}

fn object(bytes: &[u8]) -> ResponseTemplate {
    ResponseTemplate::new(200)
        .insert_header("ETag", "\"1\"")
        .insert_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        .set_body_bytes(bytes)
}

async fn read_error(status: u16, code: &str) -> Error {
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .respond_with(xml(status, code))
        .mount(&server)
        .await;
    faulty(&server).read("b").await.unwrap_err()
}

#[rstest::rstest]
#[case(
    404,
    "NoSuchBucket",
    OutcomeReason::NotFound,
    "bucket `models` does not exist"
)]
#[case(
    404,
    "NoSuchKey",
    OutcomeReason::NotFound,
    "s3://models/a/b does not exist"
)]
#[case(
    403,
    "SignatureDoesNotMatch",
    OutcomeReason::Credentials,
    "AWS_SECRET_ACCESS_KEY"
)]
#[case(403, "AccessDenied", OutcomeReason::Credentials, "AccessDenied")]
#[case(
    400,
    "AuthorizationHeaderMalformed",
    OutcomeReason::Credentials,
    "AWS_REGION"
)]
#[case(400, "InvalidRequest", OutcomeReason::InvalidInput, "InvalidRequest")]
#[tokio::test]
async fn an_answer_of_the_store_becomes_a_class_and_a_cure(
    #[case] status: u16,
    #[case] code: &str,
    #[case] reason: OutcomeReason,
    #[case] message: &str,
) {
    let error = read_error(status, code).await;
    assert_eq!(error.reason(), reason, "{error}");
    assert!(error.to_string().contains(message), "{error}");
    assert!(!error.to_string().contains("hidden-value"), "{error}");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_store_that_recovers_is_read() {
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .respond_with(xml(503, "SlowDown"))
        .up_to_n_times(2)
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .and(path("/models/a/b"))
        .respond_with(object(b"hello"))
        .mount(&server)
        .await;
    assert_eq!(faulty(&server).read("b").await.unwrap(), "hello");
}

#[tokio::test]
async fn a_store_that_is_gone_ends_as_unavailable() {
    let credentials = Credentials::from_values(values("http://127.0.0.1:9"));
    let store = Store {
        backoff: quick().with_max_times(1),
        ..Store::open("s3://models/a/", &credentials).unwrap()
    };
    let error = store.read("b").await.unwrap_err();
    assert_eq!(error.reason(), OutcomeReason::Unavailable, "{error}");
}

#[test]
fn a_named_secret_without_its_key_is_an_error_before_any_request() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("output");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("AWS_ACCESS_KEY_ID"), "me").unwrap();
    let credentials = Credentials::resolve(
        Some(root.path()),
        crate::credentials::Usage::Output,
        Some("models-s3"),
        ["s3://models/a/"],
    );
    let error = Store::open("s3://models/a/", &credentials.unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Secret `models-s3` lacks AWS_SECRET_ACCESS_KEY, which s3://models/a/ needs: add what is missing"
    );
}

#[test]
fn plain_http_needs_to_be_allowed() {
    let mut values = values("http://store:9000");
    values.retain(|(name, _)| name != "AWS_ALLOW_HTTP");
    let error = Store::open("s3://models/a/", &Credentials::from_values(values)).unwrap_err();
    assert!(error.to_string().contains("AWS_ALLOW_HTTP"), "{error}");
}

#[tokio::test]
async fn an_object_of_another_size_than_its_manifest_says_is_refused() {
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .respond_with(object(b"hello"))
        .mount(&server)
        .await;
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("b");
    let error = faulty(&server)
        .download_sized("b", &dest, None, Some(11), &|_, _| {})
        .await
        .unwrap_err();
    assert_eq!(error.reason(), OutcomeReason::InvalidInput, "{error}");
    assert!(!dest.exists());
}

/// A server that closes the connection after `cut` bytes of the first answers, and honours ranges.
async fn serve_broken(bytes: Vec<u8>, cut: usize, breaks: usize) -> (String, Arc<AtomicU64>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    tokio::spawn(async move {
        for attempt in 0.. {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(socket.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap().to_lowercase();
            let start = request.split_once("range: bytes=").map_or(0, |(_, rest)| {
                rest.split('-').next().unwrap().parse::<usize>().unwrap()
            });
            let whole = bytes.len();
            let status = if start == 0 {
                "200 OK"
            } else {
                "206 Partial Content"
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nETag: \"1\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
                 Content-Length: {}\r\nContent-Range: bytes {start}-{}/{whole}\r\nConnection: close\r\n\r\n",
                whole - start,
                whole - 1
            );
            socket.write_all(head.as_bytes()).await.unwrap();
            let end = if attempt < breaks {
                (start + cut).min(whole)
            } else {
                whole
            };
            socket.write_all(&bytes[start..end]).await.unwrap();
            counter.fetch_add((end - start) as u64, Ordering::SeqCst);
            socket.shutdown().await.unwrap();
        }
    });
    (address, sent)
}

#[rstest::rstest]
#[case("s3://models/a/")]
#[case("gs://models/a/")]
#[case("az://models/a/")]
#[tokio::test]
async fn a_download_that_breaks_often_continues_where_it_was(#[case] uri: &str) {
    let bytes: Vec<u8> = (0..100_000_u32).map(|index| (index % 251) as u8).collect();
    let (endpoint, sent) = serve_broken(bytes.clone(), 9_000, 10).await;
    let store = Store {
        backoff: quick(),
        ..Store::open(uri, &Credentials::from_values(values(&endpoint))).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("b");
    let seen = AtomicU64::new(0);
    let digest = crate::digest::of_bytes(&bytes);
    let downloaded = store
        .download("b", &dest, Some(&digest), &|received, _| {
            seen.store(received, Ordering::SeqCst);
        })
        .await
        .unwrap();
    assert_eq!(
        downloaded,
        Downloaded {
            digest,
            size: 100_000
        }
    );
    assert_eq!(std::fs::read(&dest).unwrap(), bytes);
    assert_eq!(seen.load(Ordering::SeqCst), 100_000);
    assert_eq!(
        sent.load(Ordering::SeqCst),
        100_000,
        "bytes were fetched twice"
    );
}

#[tokio::test]
async fn a_body_that_stays_truncated_leaves_no_file() {
    let (endpoint, _) = serve_broken(vec![7; 100], 0, usize::MAX).await;
    let store = Store {
        backoff: quick().with_max_times(1),
        ..Store::open(
            "s3://models/a/",
            &Credentials::from_values(values(&endpoint)),
        )
        .unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("b");
    let error = store
        .download("b", &dest, None, &|_, _| {})
        .await
        .unwrap_err();
    assert_eq!(error.reason(), OutcomeReason::Unavailable, "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_wrong_hash_is_found_before_the_file_appears() {
    let store = Store::for_test(Arc::new(InMemory::new()), "s3://models/a/");
    store.write("b", "hello".into()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("b");
    let expected = crate::digest::of_bytes(b"other");
    let error = store
        .download("b", &dest, Some(&expected), &|_, _| {})
        .await
        .unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_folder_of_other_files_is_not_told_as_missing() {
    let store = Store::for_test(Arc::new(InMemory::new()), "s3://models/a/");
    let error = store.without_objects(2);
    assert_eq!(error.reason(), OutcomeReason::InvalidInput);
    let message = error.to_string();
    assert!(
        message.starts_with("s3://models/a/: of its 2 files none is one that is read here"),
        "{message}"
    );
    let error = store.without_objects(0);
    assert_eq!(error.reason(), OutcomeReason::NotFound, "{error}");
}

#[tokio::test]
async fn creating_twice_keeps_the_first_and_the_same_bytes_count_as_created() {
    let store = Store::for_test(Arc::new(InMemory::new()), "s3://models/a/");
    assert_eq!(
        store.create("claim", "one".into()).await.unwrap(),
        Creation::Created
    );
    assert_eq!(
        store.create("claim", "one".into()).await.unwrap(),
        Creation::Created
    );
    assert_eq!(
        store.create("claim", "two".into()).await.unwrap(),
        Creation::AlreadyExists
    );
    assert_eq!(store.read("claim").await.unwrap(), "one");
}

#[tokio::test]
async fn a_creation_asks_the_store_to_refuse_an_existing_object() {
    let server = MockServer::start().await;
    Mock::given(method("PUT"))
        .and(header_exists("If-None-Match"))
        .respond_with(xml(412, "PreconditionFailed"))
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .respond_with(object(b"theirs"))
        .mount(&server)
        .await;
    let store = faulty(&server);
    assert_eq!(
        store.create("b", "ours".into()).await.unwrap(),
        Creation::AlreadyExists
    );
}

#[rstest::rstest]
#[case::memory(true)]
#[case::folder(false)]
#[tokio::test]
async fn a_prefix_lists_reads_and_deletes_only_what_is_below_it(#[case] memory: bool) {
    let folder = tempfile::tempdir().unwrap();
    let store = if memory {
        Store::for_test(Arc::new(InMemory::new()), "s3://models/root/")
    } else {
        let uri = format!("file://{}/ro ot%20/", folder.path().display());
        Store::open(&uri, &Credentials::default()).unwrap()
    };
    assert_eq!(store.list("").await.unwrap(), vec![]);
    assert_eq!(store.read_optional("a/1").await.unwrap(), None);
    for path in ["a/1", "a/sub/2", "ab/3"] {
        store.write(path, path.to_owned().into()).await.unwrap();
    }
    let child = store.child("a/").unwrap();
    assert_eq!(child.read("sub/2").await.unwrap(), "a/sub/2");
    let paths = |entries: Vec<Entry>| {
        entries
            .into_iter()
            .map(|entry| entry.path)
            .collect::<Vec<_>>()
    };
    assert_eq!(paths(child.list("").await.unwrap()), ["1", "sub/2"]);
    assert_eq!(
        paths(store.list("").await.unwrap()),
        ["a/1", "a/sub/2", "ab/3"]
    );
    store.delete_below("a/").await.unwrap();
    store.delete_below("a/").await.unwrap();
    assert_eq!(paths(store.list("").await.unwrap()), ["ab/3"]);
    assert!(store.read("../x").await.is_err());
    assert!(store.child("../x").is_err());
}

#[tokio::test]
async fn an_upload_in_parts_gives_the_digest_of_what_was_sent() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("big");
    let bytes: Vec<u8> = (0..20_000_003_u32)
        .map(|index| (index % 253) as u8)
        .collect();
    std::fs::write(&source, &bytes).unwrap();
    let store = Store::for_test(Arc::new(InMemory::new()), "s3://models/root/");
    let digest = store.upload("big", &source).await.unwrap();
    assert_eq!(digest, crate::digest::of_bytes(&bytes));
    assert!(store.read("big").await.unwrap() == bytes);
}

#[test]
fn a_claim_that_is_mounted_nowhere_says_what_to_use_instead() {
    let error = Store::open("pvc://team-data/a/", &Credentials::default())
        .unwrap_err()
        .to_string();
    for expected in [
        "PersistentVolumeClaim `team-data`",
        "file://",
        "FINETUNE_CLAIMS",
    ] {
        assert!(error.contains(expected), "{error}");
    }
}
