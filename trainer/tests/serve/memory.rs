//! The memory for keys and values over HTTP, and answers that do not depend on how much of it they may take.

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{fixture, serve, server};

const LIMIT: &str = "finetune_serve_kv_cache_limit_bytes";
const USED: &str = "finetune_serve_kv_cache_bytes";

/// The bytes that the keys and values of so many tokens take in fp32.
fn bytes(tokens: i64) -> i64 {
    let config = std::fs::read(fixture("tiny-llama/config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let number = |key: &str| config[key].as_i64().unwrap();
    let head = number("hidden_size") / number("num_attention_heads");
    2 * number("num_hidden_layers") * number("num_key_value_heads") * head * 4 * tokens
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_cannot_fit_is_refused_by_its_lengths_the_budget_and_the_flag() {
    let budget = bytes(64).to_string();
    let server = server(&["--kv-cache-memory", &budget]).await;
    assert_eq!(server.metric(LIMIT).await, bytes(64) as f64);
    let body = json!({ "prompt": [5, 6, 7], "max_tokens": 62 });
    let (status, answer) = server.post("/v1/completions", &body).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    for part in ["3 tokens", "62", "61", &budget, "--kv-cache-memory"] {
        assert!(message.contains(part), "{message} without {part}");
    }
    let body = json!({ "prompt": vec![5; 64], "max_tokens": 1 });
    let (status, answer) = server.post("/v1/completions", &body).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    assert!(answer.to_string().contains("--kv-cache-memory"), "{answer}");
    let body = json!({ "prompt": [5, 6, 7], "max_tokens": 61, "ignore_eos": true });
    assert_eq!(
        server.complete(body).await["usage"]["completion_tokens"],
        61
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_memory_holds_wait_and_are_all_answered() {
    let budget = bytes(128).to_string();
    let server = server(&["--kv-cache-memory", &budget]).await;
    let body = json!({ "prompt": [5, 6], "max_tokens": 40, "ignore_eos": true });
    let requests = (0..8).map(|_| server.complete(body.clone()));
    let watch = async {
        loop {
            let used = server.metric(USED).await;
            assert!(used <= bytes(128) as f64, "{used}");
            tokio::task::yield_now().await;
        }
    };
    let answers = tokio::select! {
        answers = futures::future::join_all(requests) => answers,
        () = watch => unreachable!("it has no end"),
    };
    for answer in answers {
        assert_eq!(answer["usage"]["completion_tokens"], 40);
    }
    server.wait_for(USED, |used| used == 0.0).await;
}

/// From its ninth token on, this base turns all tokens by other frequencies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_a_base_with_long_rope_is_the_same_whatever_it_may_become() {
    let server = serve(&fixture("families/phi3"), &[]).await;
    let answer = async |tokens: usize| {
        let body = json!({
            "prompt": [7, 8, 9], "max_tokens": tokens, "temperature": 0, "ignore_eos": true, "logprobs": 0,
        });
        let answer = server.complete(body).await;
        let scores = answer["choices"][0]["logprobs"]["token_logprobs"].clone();
        Vec::<f64>::deserialize(scores).unwrap()
    };
    let (short, long) = (answer(4).await, answer(40).await);
    for (short, long) in short.iter().zip(long) {
        assert!((short - long).abs() < 1e-4, "{short} and {long}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_without_room_for_an_answer_keeps_the_server_from_starting() {
    let options = crate::client::options(&fixture("tiny-llama"), &["--kv-cache-memory", "1k"]);
    let error = trainer::serve::start(&options)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("--kv-cache-memory") && error.contains("1000"),
        "{error}"
    );
}
