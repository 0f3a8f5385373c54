//! Load, hang-ups and stopping.

use std::time::Duration;

use futures::StreamExt;
use reqwest::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{endless, fixture, long, options, started};

const RUNNING: &str = "finetune_serve_running";
const GENERATED: &str = "finetune_serve_generated_tokens_total";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_answer_holds_up_neither_health_nor_other_answers() {
    let (server, _folder) = endless(&[]).await;
    let stream = started(&server, &long(500_000)).await;
    assert_eq!(server.get("/health").await.status(), StatusCode::OK);
    let short = json!({ "prompt": "x", "max_tokens": 20, "ignore_eos": true });
    assert_eq!(
        server.complete(short).await["usage"]["completion_tokens"],
        20
    );
    // Only the long answer is left: it was not waited for.
    server.wait_for(RUNNING, |running| running == 1.0).await;
    drop(stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn more_huge_prompts_than_there_are_threads_hold_up_neither_health_nor_metrics() {
    let (server, _folder) = endless(&[]).await;
    let text = "lorem ipsum dolor sit amet ".repeat(60_000);
    let chat =
        json!({ "messages": [{ "role": "user", "content": text }], "max_tokens": 1_000_000 })
            .to_string();
    let plain = json!({ "prompt": text, "max_tokens": 1_000_000 }).to_string();
    let huge = [
        ("/v1/chat/completions", &chat),
        ("/v1/completions", &plain),
        ("/v1/chat/completions", &chat),
    ];
    let huge = huge.map(|(path, body)| server.send(path, body.clone()));
    let answered = async {
        // Seen over HTTP while they are tokenised: the server's only thread is free.
        server
            .wait_for("finetune_serve_preparing", |count| count >= 1.0)
            .await;
        assert_eq!(server.get("/health").await.status(), StatusCode::OK);
    };
    let (answers, ()) = futures::join!(futures::future::join_all(huge), answered);
    for answer in answers {
        // Prompt and answer together fit into no context.
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_nobody_waits_for_is_computed_no_further() {
    let (server, _folder) = endless(&[]).await;
    let stream = started(&server, &long(500_000)).await;
    server.wait_for(RUNNING, |running| running == 1.0).await;
    drop(stream);
    server.wait_for(RUNNING, |running| running == 0.0).await;
    let generated = server.metric(GENERATED).await;
    assert!(generated < 400_000.0, "{generated}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.metric(GENERATED).await, generated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_the_queue_holds_is_refused_and_may_try_again() {
    let (server, _folder) = endless(&["--max-running", "1", "--max-waiting", "1"]).await;
    let stream = started(&server, &long(500_000)).await;
    let short = json!({ "prompt": "x", "max_tokens": 2 });
    let waits = server.complete(short.clone());
    let refused = async {
        server
            .wait_for("finetune_serve_waiting", |waiting| waiting == 1.0)
            .await;
        let response = server.send("/v1/completions", short.to_string()).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["retry-after"], "1");
        drop(stream);
    };
    let (answer, ()) = futures::join!(waits, refused);
    assert_eq!(answer["usage"]["prompt_tokens"], 1);
    server.complete(short.clone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_finishes_what_is_running_and_takes_no_more() {
    let (server, _folder) = endless(&[]).await;
    let mut stream = started(&server, &long(1000)).await;
    let address = server.running.address();
    let stopping = tokio::spawn(server.running.stop(Duration::from_mins(5)));
    let mut last = bytes::Bytes::new();
    while let Some(bytes) = stream.next().await {
        last = bytes.unwrap();
    }
    assert!(last.ends_with(b"data: [DONE]\n\n"), "{last:?}");
    stopping.await.unwrap();
    assert!(
        reqwest::get(format!("http://{address}/health"))
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_head_does_not_hold_up_the_end_of_a_server_without_answers() {
    let (server, _folder) = endless(&[]).await;
    let mut client = TcpStream::connect(server.running.address()).await.unwrap();
    let whole_and_half = b"GET /health HTTP/1.1\r\nhost: server\r\n\r\nGET /health HTTP/1.1\r\nx: ";
    client.write_all(whole_and_half).await.unwrap();
    // Once the first is answered, the server has the connection.
    let mut answer = [0; 15];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    let stopping = server.running.stop(Duration::from_hours(24));
    let stopped = tokio::time::timeout(Duration::from_mins(5), stopping).await;
    stopped.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_takes_longer_than_the_grace_is_cut() {
    let (server, _folder) = endless(&[]).await;
    let _stream = started(&server, &long(500_000)).await;
    let stopped = tokio::time::timeout(
        Duration::from_mins(5),
        server.running.stop(Duration::from_millis(50)),
    );
    stopped.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_a_server_from_starting_names_the_option() {
    let start = async |model: &str, flags: &[&str]| {
        let started = trainer::serve::start(&options(&fixture(model), flags)).await;
        started.unwrap_err().to_string()
    };
    let error = start("nowhere", &[]).await;
    assert!(
        error.contains("--model") && error.contains("nowhere"),
        "{error}"
    );
    let adapter = format!("support={}", fixture("adapters/tiny-llama-64").display());
    let error = start("tiny-llama", &["--adapter", &adapter]).await;
    assert!(error.contains("--adapter support="), "{error}");
    let error = start("tiny-llama", &["--host", "203.0.113.7"]).await;
    assert!(
        error.contains("203.0.113.7") && error.contains("--host"),
        "{error}"
    );
}
