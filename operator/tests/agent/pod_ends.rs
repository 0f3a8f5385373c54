//! A pod that is about to end sends its clients away before its engine goes.

use std::time::Duration;

use operator::agent::desired::Role::Stable;
use operator::agent::pre_stop::{self, announce};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bench::Bench;

/// Asks on a connection that stays open, and gives the head of the answer.
async fn ask(stream: &mut TcpStream) -> String {
    let body = r#"{"model":"tone","prompt":"a"}"#;
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: agent\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"0\r\n\r\n") {
        let read = stream.read_buf(&mut answer).await.unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8(answer).unwrap().to_lowercase()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_announcement_an_answer_is_the_last_of_its_connection_and_idle_ones_are_closed() {
    let bench = Bench::start().await;
    let one = bench.publish("tone", 0.25).await;
    bench.desire(&[("tone", &[(&one, Stable)])]);
    bench.until_ready().await;
    let mut used = TcpStream::connect(bench.proxy()).await.unwrap();
    let mut idle = TcpStream::connect(bench.proxy()).await.unwrap();
    for stream in [&mut used, &mut idle] {
        let answer = ask(stream).await;
        assert!(answer.starts_with("http/1.1 200") && !answer.contains("connection: close"));
    }

    let announcement = pre_stop::Arguments {
        socket: bench.pre_stop_socket(),
        pause_seconds: 5,
    };
    announce(announcement).await.unwrap();
    let answer = ask(&mut used).await;
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(used.read(&mut [0; 8]).await.unwrap(), 0);
    // Pods that still send here are answered for a while.
    assert_eq!(bench.complete("tone").await.0, 200);

    let closed = tokio::time::timeout(Duration::from_mins(2), idle.read(&mut [0; 8])).await;
    assert_eq!(closed.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn without_an_agent_the_announcement_says_where_it_looked() {
    let announcement = pre_stop::Arguments {
        socket: "/nowhere/pre-stop.sock".into(),
        pause_seconds: 5,
    };
    let error = announce(announcement).await.unwrap_err();
    let message = error.to_string();
    assert!(message.contains("/nowhere/pre-stop.sock"), "{message}");
}
