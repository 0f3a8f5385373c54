//! Bodies of requests: what reaches the engine, and what the agent keeps of them.

use axum::http::{HeaderMap, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bench::Bench;
use crate::fake_engine::BASE;
use operator::agent::desired::Role::Stable;

/// What the chart gives the agent.
const LIMIT: u64 = 256 << 20;

/// A body of as many bytes as the proxy takes, all of it one list of numbers.
fn greatest(model: &str) -> String {
    let head = format!(r#"{{"model":"{model}","prompt":["#);
    let numbers = ((16 << 20) - head.len() - 3) / 2;
    format!("{head}{}1]}}", "1,".repeat(numbers))
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_greatest_bodies_at_once_are_answered_and_stay_within_the_agents_memory() {
    let (bench, agent) = Bench::start_with_process().await;
    bench.desire(&[]);
    bench.until_ready().await;
    let body = bytes::Bytes::from(greatest(BASE));
    let ask = || async {
        let url = format!("http://{}/v1/completions", bench.proxy());
        let request = bench.client.post(url).body(body.clone());
        request.send().await.unwrap().status()
    };
    let statuses = futures::future::join_all((0..20).map(|_| ask())).await;
    for status in &statuses {
        // 503: others were in the way for longer than a client should wait.
        assert!(
            [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(status),
            "{statuses:?}"
        );
    }
    assert!(statuses.contains(&StatusCode::OK), "{statuses:?}");
    assert!(
        agent.peak_memory() < LIMIT,
        "{} bytes at its peak",
        agent.peak_memory()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_bodies_above_a_megabyte_are_answered_or_sent_away_within_the_agents_memory() {
    let (bench, agent) = Bench::start_with_process().await;
    bench.desire(&[]);
    bench.until_ready().await;
    let body = json!({"model": BASE, "prompt": "a".repeat(1_100_000)}).to_string();
    let body = bytes::Bytes::from(body);
    let ask = || async {
        let url = format!("http://{}/v1/completions", bench.proxy());
        // A stream, whose length nobody knows before its end.
        let pieces = futures::stream::iter([Ok::<_, std::convert::Infallible>(body.clone())]);
        let request = bench.client.post(url);
        let request = request.body(reqwest::Body::wrap_stream(pieces));
        request.send().await.unwrap().status()
    };
    let statuses = futures::future::join_all((0..200).map(|_| ask())).await;
    for status in &statuses {
        assert!(
            [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(status),
            "{statuses:?}"
        );
    }
    assert!(statuses.contains(&StatusCode::OK), "{statuses:?}");
    assert!(
        agent.peak_memory() < LIMIT,
        "{} bytes at its peak",
        agent.peak_memory()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_take_room_until_they_are_sent_on_and_not_until_they_are_answered() {
    let bench = Bench::start().await;
    bench.desire(&[]);
    bench.until_ready().await;
    bench.engine.finish_streams.send_replace(false);
    let prompt = "a ".repeat(1 << 20);
    let body = json!({"model": BASE, "prompt": prompt});
    let asked = (0..6).map(|_| bench.post("/v1/completions", &body));
    let all_computed = async {
        bench
            .until("with six answers under way", |_| {
                bench.engine.with().long_requests == 6
            })
            .await;
        bench.engine.finish_streams.send_replace(true);
    };
    let (answers, ()) = futures::join!(futures::future::join_all(asked), all_computed);
    for answer in answers {
        assert_eq!(answer.status(), StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_a_413_in_openais_form_and_counts() {
    let bench = Bench::start().await;
    bench.desire(&[]);
    bench.until_ready().await;
    let url = format!("http://{}/v1/chat/completions", bench.proxy());
    let body = format!("{}   ", greatest(BASE));
    let response = bench.client.post(url).body(body).send().await.unwrap();
    assert_eq!(response.status(), 413);
    let body: serde_json::Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], 413);
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("16777216 bytes"), "{message}");
    let metrics = bench.metrics().await;
    assert!(
        metrics.contains(r#"finetune_agent_requests_total{alias="unknown",status="4xx"} 1"#),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_to_be_asked_is_not_asked_for_a_body_over_the_limit() {
    let bench = Bench::start().await;
    bench.desire(&[]);
    bench.until_ready().await;
    let mut stream = TcpStream::connect(bench.proxy()).await.unwrap();
    let length = 20 << 20;
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: agent\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_but_the_models_name_reaches_the_engine_and_no_header_of_the_connection_does() {
    let bench = Bench::start().await;
    let one = bench.publish("tone", 0.25).await;
    bench.desire(&[("tone", &[(&one, Stable)])]);
    bench.until_ready().await;
    // A number that no double holds, a key that is there twice, spaces: what values would lose.
    let body = r#" { "seed":18446744073709551617, "prompt" : "a", "model": "tone", "seed": 1.00 }"#;
    let url = format!("http://{}/v1/completions", bench.proxy());
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-request-id", "7"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "Basic secret"),
        ("x-hop", "1"),
        ("connection", "keep-alive, x-hop"),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    let response = bench.client.post(url).headers(headers).body(body);
    assert_eq!(response.send().await.unwrap().status(), 200);
    let (headers, received) = bench.engine.with().last_request.clone().unwrap();
    assert_eq!(received, body.replace("tone", &one.version));
    assert_eq!(headers["x-request-id"], "7");
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["content-length"], received.len().to_string());
    for name in ["keep-alive", "proxy-authorization", "x-hop"] {
        assert!(!headers.contains_key(name), "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_names_two_models_reaches_no_engine() {
    let bench = Bench::start().await;
    bench.desire(&[]);
    bench.until_ready().await;
    let url = format!("http://{}/v1/completions", bench.proxy());
    let body = format!(r#"{{"model":"{BASE}","model":"other","prompt":"a"}}"#);
    let response = bench.client.post(url).body(body).send().await.unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(
        response.json::<serde_json::Value>().await.unwrap()["error"],
        json!({
            "message": "`model` stands twice, expected once; leave one out",
            "type": "BadRequestError", "param": "model", "code": 400,
        })
    );
    assert!(bench.engine.with().last_request.is_none());
}
