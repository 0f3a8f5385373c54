//! Data in a bucket or on a mounted claim, by hand: keys and endpoint from the environment.

use finetune_artifacts::uri::Location;
use finetune_crds::uris;
use serde_json::{Value, json};
use wiremock::matchers::{header_exists, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::bench::{Bench, Ended, rows};

const MODIFIED: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

/// A job whose data lies at `uri`.
fn job(uri: &str) -> Bench {
    Bench::with("tiny-llama", |job| {
        job["spec"]["dataset"] = json!({ "train": [{ "uri": uri }] });
    })
}

/// A store with one object at `object`, of which `folder` is the listing, for whoever shows a key.
async fn store(object: &str, folder: &str, listing: &str) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .and(path(folder))
        .and(query_param("prefix", "team/"))
        .and(header_exists("authorization"))
        .respond_with(ResponseTemplate::new(200).set_body_raw(listing, "application/xml"))
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .and(path(object))
        .and(header_exists("authorization"))
        .respond_with(
            ResponseTemplate::new(200)
                .insert_header("ETag", "\"1\"")
                .insert_header("Last-Modified", MODIFIED)
                .set_body_bytes(text()),
        )
        .mount(&server)
        .await;
    server
}

fn text() -> String {
    rows(40).join("\n") + "\n"
}

fn prepared(bench: &Bench, environment: &[(&str, &str)]) -> Value {
    let mut command = bench.command("prepare");
    command.envs(environment.iter().copied());
    Ended::from(command.output().unwrap()).succeeded();
    bench.read_json("dataset-report.json")
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_a_bucket_of_google_are_prepared() {
    let listing = format!(
        "<ListBucketResult><Contents><Key>team/a.jsonl</Key><Size>{}</Size>\
         <LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"1\"</ETag></Contents></ListBucketResult>",
        text().len()
    );
    let server = store("/my%2Ddata/team%2Fa%2Ejsonl", "/my%2Ddata", &listing).await;
    let report = prepared(
        &job("gs://my-data/team/"),
        &[
            ("GOOGLE_BEARER_TOKEN", "token"),
            ("GOOGLE_BASE_URL", &server.uri()),
            ("GOOGLE_ALLOW_HTTP", "true"),
        ],
    );
    assert_eq!(report["dataset"]["rows"], 40, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_a_container_of_azure_are_prepared() {
    let listing = format!(
        "<EnumerationResults><Blobs><Blob><Name>team/a.jsonl</Name><Properties><Last-Modified>{MODIFIED}</Last-Modified>\
         <Etag>1</Etag><Content-Length>{}</Content-Length><Content-Type>text/plain</Content-Type></Properties></Blob>\
         </Blobs><NextMarker/></EnumerationResults>",
        text().len()
    );
    let server = store("/my-data/team/a.jsonl", "/my-data", &listing).await;
    let report = prepared(
        &job("az://my-data/team/"),
        &[
            ("AZURE_STORAGE_ACCOUNT_NAME", "team"),
            ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5"),
            ("AZURE_STORAGE_ENDPOINT", &server.uri()),
            ("AZURE_ALLOW_HTTP", "true"),
        ],
    );
    assert_eq!(report["dataset"]["rows"], 40, "{report}");
}

#[test]
fn rows_on_a_claim_are_read_where_it_is_mounted_and_nowhere_else() {
    let claims = tempfile::tempdir().unwrap();
    let folder = claims.path().join("my-data/team");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("a.jsonl"), text()).unwrap();
    let bench = job("pvc://my-data/team/");
    let ended = bench.run("prepare");
    ended.refused(&["PersistentVolumeClaim `my-data`", "use file://"]);
    let root = claims.path().to_str().unwrap();
    let report = prepared(&bench, &[("FINETUNE_CLAIMS", root)]);
    assert_eq!(report["dataset"]["rows"], 40, "{report}");
    let ended = job("pvc://my-data/team/a.jsonl");
    prepared(&ended, &[("FINETUNE_CLAIMS", root)]);

    let absent = job("pvc://other/a.jsonl");
    let mut command = absent.command("prepare");
    command.env("FINETUNE_CLAIMS", root);
    Ended::from(command.output().unwrap()).refused(&["PersistentVolumeClaim `other`"]);
}

/// Each file beside the rows would be a fault if it were read.
#[test]
fn of_a_folder_only_data_is_read_and_no_link_that_leads_out_of_a_claim() {
    let claims = tempfile::tempdir().unwrap();
    let volume = claims.path().join("my-data");
    for (path, content) in [
        ("a.jsonl", text().as_str()),
        ("_SUCCESS", "no row"),
        (".gitattributes", "no row"),
        ("_delta_log/0.json", "no row"),
        ("part/.cache/b.jsonl", "no row"),
        ("lost+found/1", "no row"),
    ] {
        let path = volume.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let root = claims.path().to_str().unwrap();
    let report = prepared(&job("pvc://my-data"), &[("FINETUNE_CLAIMS", root)]);
    assert_eq!(report["dataset"]["rows"], 40, "{report}");

    let secret = tempfile::NamedTempFile::new().unwrap();
    std::os::unix::fs::symlink(secret.path(), volume.join("part/b.jsonl")).unwrap();
    for uri in ["pvc://my-data", "pvc://my-data/part/b.jsonl"] {
        let bench = job(uri);
        let mut command = bench.command("prepare");
        command.env("FINETUNE_CLAIMS", root);
        Ended::from(command.output().unwrap()).refused(&[
            "pvc://my-data/part/b.jsonl",
            "leads out of the claim: copy the file there",
        ]);
    }
}

#[test]
fn a_claim_that_the_cluster_lets_through_is_one_that_is_read_here() {
    let longest = "a".repeat(253);
    let admitted = |uri: &str| {
        [uris::BASE, uris::ROWS, uris::ADAPTER]
            .map(|pattern| regex::Regex::new(pattern).unwrap().is_match(uri))
    };
    for uri in [
        "pvc://team-data".to_owned(),
        "pvc://team.data/".to_owned(),
        "pvc://team-data/a/b.gguf".to_owned(),
        format!("pvc://{longest}"),
        format!("pvc://{longest}/a/"),
    ] {
        assert_eq!(admitted(&uri), [true; 3], "{uri}");
        Location::parse(&uri).unwrap();
    }
    for uri in [
        "pvc://".to_owned(),
        "pvc:///a".to_owned(),
        "pvc://../a".to_owned(),
        "pvc://-a/b".to_owned(),
        format!("pvc://{longest}a"),
        format!("pvc://{longest}a/b"),
    ] {
        assert_eq!(admitted(&uri), [false; 3], "{uri}");
        Location::parse(&uri).unwrap_err();
    }
}

#[test]
fn a_mounted_secret_that_is_missing_is_named_with_the_keys_of_the_hub() {
    let bench = Bench::with("tiny-llama", |job| {
        job["spec"]["baseModel"] =
            json!({ "uri": "hf://org/tiny", "credentialsSecretRef": { "name": "hub" } });
    });
    let credentials = tempfile::tempdir().unwrap();
    let folder = credentials.path().to_str().unwrap();
    let ended = bench.run_with("prepare", &["--credentials", folder]);
    assert_ne!(ended.code, Some(0));
    for word in ["Secret `hub`", "hf://org/tiny", "HF_TOKEN", "HF_ENDPOINT"] {
        assert!(ended.stderr.contains(word), "{}", ended.stderr);
    }
    assert!(!ended.stderr.contains("AWS_"), "{}", ended.stderr);
}

#[test]
fn nothing_is_written_to_what_is_for_reading() {
    let bench = Bench::with("tiny-llama", |job| {
        job["spec"]["output"] = json!({ "uri": "pvc://results/" });
        job["spec"]["initialAdapter"] = json!({ "uri": "https://host/adapter" });
    });
    bench.run("prepare").refused(&[
        "spec.output.uri",
        "s3://, gs:// or az://",
        "spec.initialAdapter.uri",
        "one file",
    ]);
}

#[test]
fn uploads_are_put_together_where_the_flag_says_and_not_among_shared_downloads() {
    let bench = Bench::new(2);
    let outgoing = bench.work().with_file_name("outgoing");
    let flags = ["--outgoing", outgoing.to_str().unwrap()];
    bench.run_with("train", &flags).succeeded();
    assert!(outgoing.is_dir());
    assert_eq!(std::fs::read_dir(&outgoing).unwrap().count(), 0);
    // A folder in which nothing can be put.
    let ended = Bench::new(2).run_with("train", &["--outgoing", "/proc/self"]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("/proc/self"), "{}", ended.stderr);
    std::fs::remove_dir(&outgoing).unwrap();
    std::fs::write(&outgoing, "").unwrap();
    let ended = bench.run_with("merge", &flags);
    assert_ne!(ended.code, Some(0));
    assert!(
        ended.stderr.contains("choose another with --outgoing"),
        "{}",
        ended.stderr
    );
}
