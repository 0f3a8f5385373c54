//! A store that refuses a write or a delete costs a checkpoint, not the run.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::bench::{Bench, Ended};

#[test]
fn a_run_goes_on_while_no_checkpoint_can_be_written() {
    let whole = Bench::new(12);
    let expected = whole.run("train").succeeded().outcome();
    let bench = Bench::new(12);
    bench.copy_job_of(&whole);
    // Where checkpoints would lie is a link that leads nowhere.
    let attempt = bench.work().join("scratch/attempts/000001");
    std::fs::create_dir_all(&attempt).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", attempt.join("checkpoints")).unwrap();
    let ended = bench.run("train").succeeded();
    for step in [5, 10, 12] {
        let warning = format!("failed to save the state after step {step}");
        assert!(ended.stderr.contains(&warning), "{}", ended.stderr);
    }
    assert_eq!(
        ended.outcome()["adapter"]["digest"],
        expected["adapter"]["digest"]
    );
    assert_eq!(bench.read("metrics.csv"), whole.read("metrics.csv"));
}

/// A real S3 server (versitygw) with the bucket `results`; it ends with the value.
struct Gateway {
    process: Child,
    folder: tempfile::TempDir,
    address: String,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Gateway {
    /// Starts the server. `None`, said aloud, where there is none to start.
    async fn start() -> Option<Self> {
        let program = std::env::var_os("FINETUNE_S3_GATEWAY").map(PathBuf::from);
        let Some(program) = program.filter(|program| program.exists()) else {
            eprintln!("skipped: FINETUNE_S3_GATEWAY names no server; run `make test-unit`");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("results")).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let process = Command::new(program)
            .args(["--port", &address, "--access", "me", "--secret", "secret"])
            .args(["--quiet", "posix"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while tokio::net::TcpStream::connect(&address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(Self {
            process,
            folder,
            address,
        })
    }

    /// The same server under a policy that allows everything but to delete. Returns its address.
    async fn without_delete(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let behind = Arc::new((reqwest::Client::new(), self.address.clone()));
        let router = axum::Router::new().fallback(pass_on).with_state(behind);
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }
}

/// Refuses deletes as S3 does, and passes on the rest as it is: the signature holds for all of it, the host's name included.
async fn pass_on(
    State(behind): State<Arc<(reqwest::Client, String)>>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let deletes_many = parts
        .uri
        .query()
        .is_some_and(|query| query.contains("delete"));
    if parts.method == Method::DELETE || deletes_many {
        let denied =
            "<Error><Code>AccessDenied</Code><Message>no s3:DeleteObject</Message></Error>";
        return (StatusCode::FORBIDDEN, denied).into_response();
    }
    let (client, address) = &*behind;
    let answer = client
        .request(parts.method, format!("http://{address}{}", parts.uri))
        .headers(parts.headers)
        .body(to_bytes(body, usize::MAX).await.unwrap())
        .send()
        .await
        .unwrap();
    let status = answer.status();
    let mut headers: HeaderMap = answer.headers().clone();
    headers.remove(header::TRANSFER_ENCODING);
    (status, headers, Body::from(answer.bytes().await.unwrap())).into_response()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_in_which_nothing_may_be_deleted_holds_all_checkpoints_and_the_result() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let endpoint = format!("http://{}", gateway.without_delete().await);
    let bench = Bench::new(17);
    let output = tokio::task::spawn_blocking(move || {
        bench
            .command_in("train", "s3://results/run/")
            .env("AWS_ENDPOINT_URL", endpoint)
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "me")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .output()
            .unwrap()
    });
    let ended = Ended::from(output.await.unwrap()).succeeded();
    assert_eq!(ended.outcome()["reason"], "Succeeded");
    assert!(
        ended.stderr.contains("failed to delete old checkpoints"),
        "{}",
        ended.stderr
    );
    let attempt = gateway
        .folder
        .path()
        .join("results/run/scratch/attempts/000001/checkpoints");
    for step in [5, 10, 15, 17] {
        let manifest = attempt.join(format!("{step:09}/manifest.json"));
        assert!(manifest.exists(), "{}", manifest.display());
    }
}
