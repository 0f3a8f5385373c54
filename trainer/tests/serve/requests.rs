//! Requests that are wrong, and what is said of them.

use reqwest::StatusCode;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{adapter_path, server};

#[rstest]
#[case::no_messages("/v1/chat/completions", json!({ "model": "tiny" }), "messages")]
#[case::empty_messages("/v1/chat/completions", json!({ "messages": [] }), "messages")]
#[case::no_role("/v1/chat/completions", json!({ "messages": [{ "content": "x" }] }), "messages")]
#[case::image("/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }), "messages")]
#[case::tools("/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": "x" }], "tools": [{}] }), "tools")]
#[case::alternatives("/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": "x" }], "top_logprobs": 2 }), "top_logprobs")]
#[case::no_room("/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": "x" }], "max_completion_tokens": 1000 }), "max_completion_tokens")]
#[case::no_prompt("/v1/completions", json!({ "model": "tiny" }), "prompt")]
#[case::empty_prompt("/v1/completions", json!({ "prompt": [] }), "prompt")]
#[case::foreign_token("/v1/completions", json!({ "prompt": [1, 320] }), "prompt")]
#[case::negative_token("/v1/completions", json!({ "prompt": [-1] }), "prompt")]
#[case::long_prompt("/v1/completions", json!({ "prompt": vec![5; 128] }), "prompt")]
#[case::no_tokens("/v1/completions", json!({ "prompt": "x", "max_tokens": 0 }), "max_tokens")]
#[case::negative("/v1/completions", json!({ "prompt": "x", "max_tokens": -1 }), "max_tokens")]
#[case::hot("/v1/completions", json!({ "prompt": "x", "temperature": 3 }), "temperature")]
#[case::text("/v1/completions", json!({ "prompt": "x", "temperature": "hot" }), "temperature")]
#[case::top_p("/v1/completions", json!({ "prompt": "x", "top_p": 0 }), "top_p")]
#[case::two("/v1/completions", json!({ "prompt": "x", "n": 2 }), "n")]
#[case::logprobs("/v1/completions", json!({ "prompt": "x", "logprobs": 100 }), "logprobs")]
#[case::grammar("/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": "x" }], "guided_json": {} }), "guided_json")]
#[case::forced_call("/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": "x" }], "tool_choice": "required" }), "tool_choice")]
#[case::last_words("/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": "x" }], "continue_final_message": true }), "continue_final_message")]
#[case::in_a_message("/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": "x", "prefix": true }] }), "messages")]
#[case::unknown("/v1/completions", json!({ "prompt": "x", "max_token": 5 }), "max_token")]
#[case::of_chats("/v1/completions", json!({ "prompt": "x", "messages": [] }), "messages")]
#[case::truncated("/v1/completions", json!({ "prompt": "x", "truncate_prompt_tokens": 2 }), "truncate_prompt_tokens")]
#[case::allowed("/v1/completions", json!({ "prompt": "x", "allowed_token_ids": [5] }), "allowed_token_ids")]
#[case::bytes("/v1/completions", json!({ "prompt": "x".repeat(100_000) }), "prompt")]
#[case::stop("/v1/completions", json!({ "prompt": "x", "stop": [1] }), "stop")]
#[case::foreign_stop_token("/v1/completions", json!({ "prompt": "x", "stop_token_ids": [320] }), "stop_token_ids")]
#[case::stream_options("/v1/completions", json!({ "prompt": "x", "stream_options": [true] }), "stream_options")]
#[case::part("/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": [["text", "hi"]] }] }), "messages")]
#[case::adapter("/v1/load_lora_adapter", json!({ "lora_name": ["new"] }), "lora_name")]
#[case::unknown_of_an_adapter("/v1/unload_lora_adapter", json!({ "lora_name": "new", "force": true }), "force")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_field_is_named(#[case] path: &str, #[case] body: Value, #[case] field: &str) {
    let server = server(&[]).await;
    let (status, answer) = server.post(path, &body).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    assert_eq!(answer["error"]["param"], field, "{answer}");
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains(&format!("`{field}")),
        "{answer}"
    );
    assert_eq!(answer["error"]["code"], 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_operators_agent_sends_is_answered() {
    let server = server(&[]).await;
    let golden = json!({ "model": "tiny", "prompt": [5, 6, 7], "echo": true, "logprobs": 1, "max_tokens": 1, "temperature": 0 });
    let answer = server.complete(golden).await;
    let scores = &answer["choices"][0]["logprobs"]["token_logprobs"];
    assert_eq!(scores.as_array().unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_without_a_start_token_is_one_where_it_is_asked_for() {
    let server = server(&[]).await;
    let tokens = async |special: bool| {
        let body = json!({ "prompt": "x", "max_tokens": 1, "add_special_tokens": special });
        server.complete(body).await["usage"]["prompt_tokens"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(tokens(false).await, 1);
    assert!(tokens(true).await >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_found_by_its_name() {
    let adapter = format!("team/support={}", adapter_path("tiny-llama"));
    let server = server(&["--adapter", &adapter]).await;
    for (name, parent) in [("tiny", Value::Null), ("team/support", json!("tiny"))] {
        let response = server.get(&format!("/v1/models/{name}")).await;
        assert_eq!(response.status(), StatusCode::OK);
        let card: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!(
            (&card["id"], &card["object"], &card["parent"]),
            (&json!(name), &json!("model"), &parent)
        );
    }
    let response = server.get("/v1/models/none").await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    assert_eq!(body["error"]["message"], "The model `none` does not exist.");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_no_object_in_json_is_refused() {
    let server = server(&[]).await;
    for path in ["/v1/completions", "/v1/load_lora_adapter"] {
        for body in ["", "{", "[]", "{} {}", r#"["new", "/nowhere"]"#] {
            let response = server.send(path, body).await;
            assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{body}");
            let answer: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
            let message = answer["error"]["message"].as_str().unwrap();
            assert!(message.starts_with("the body is "), "{message}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_in_the_path_that_is_no_text_is_refused_as_json() {
    let server = server(&[]).await;
    let response = server.get("/v1/models/%ff").await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    assert_eq!(body["error"]["param"], "model", "{body}");
    assert_eq!(body["error"]["type"], "BadRequestError");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_body_is_too_large_reads_that_it_is() {
    let server = server(&[]).await;
    let body = json!({ "prompt": "x".repeat(20 << 20) });
    let (status, answer) = server.post("/v1/completions", &body).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("16777216"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_to_be_asked_is_not_asked_for_a_body_that_is_too_large() {
    let server = server(&[]).await;
    let mut stream = TcpStream::connect(server.running.address()).await.unwrap();
    let length = 20 << 20;
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: server\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[rstest]
#[case("/v1/completions", json!({ "model": "other", "prompt": "x" }))]
#[case("/v1/chat/completions", json!({ "model": "other", "messages": [{ "role": "user", "content": "x" }] }))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_model_is_not_found_and_never_the_base(#[case] path: &str, #[case] body: Value) {
    let server = server(&[]).await;
    let (status, answer) = server.post(path, &body).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(
        answer,
        json!({ "error": { "message": "The model `other` does not exist.", "type": "NotFoundError", "param": "model", "code": 404 } })
    );
    assert_eq!(
        server.get("/v1/nothing").await.status(),
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        server.get(path).await.status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_seed_gives_the_same_answer() {
    let server = server(&[]).await;
    let ask = |seed: i64| json!({ "prompt": "x", "max_tokens": 30, "seed": seed, "ignore_eos": true, "temperature": 1.5, "top_p": 0.95 });
    let first = server.complete(ask(1)).await;
    let again = server.complete(ask(1)).await;
    let other = server.complete(ask(2)).await;
    assert_eq!(first["choices"], again["choices"]);
    assert_ne!(first["choices"], other["choices"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_counted_by_route_and_status_only() {
    let server = server(&[]).await;
    server
        .complete(json!({ "prompt": [5, 6, 7], "max_tokens": 4, "ignore_eos": true }))
        .await;
    server
        .post(
            "/v1/completions",
            &json!({ "model": "other", "prompt": "x" }),
        )
        .await;
    server.get("/made/up/by/a/client").await;
    assert_eq!(
        server
            .metric("finetune_serve_requests_total{route=\"/v1/completions\",status=\"200\"}")
            .await,
        1.0
    );
    assert_eq!(
        server
            .metric("finetune_serve_requests_total{route=\"/v1/completions\",status=\"404\"}")
            .await,
        1.0
    );
    assert_eq!(
        server
            .metric("finetune_serve_requests_total{route=\"other\",status=\"404\"}")
            .await,
        1.0
    );
    assert_eq!(
        server.metric("finetune_serve_prompt_tokens_total").await,
        3.0
    );
    assert_eq!(
        server.metric("finetune_serve_generated_tokens_total").await,
        4.0
    );
    assert_eq!(
        server
            .metric("finetune_serve_first_token_seconds_count")
            .await,
        1.0
    );
    assert_eq!(
        server.metric("finetune_serve_token_seconds_count").await,
        3.0
    );
}
