//! Streams against whole answers, and where answers end.

use rstest::rstest;
use serde_json::{Value, json};

use crate::client::server;

const CHAT: &str = "/v1/chat/completions";

fn joined(chunks: &[Value], pointer: &str) -> String {
    chunks
        .iter()
        .filter_map(|chunk| chunk.pointer(pointer)?.as_str())
        .collect()
}

/// The last reason that is given, which must be in the last chunk with a choice.
fn reason(chunks: &[Value]) -> Value {
    let mut reasons = chunks
        .iter()
        .filter_map(|chunk| chunk.pointer("/choices/0/finish_reason"))
        .cloned();
    let last = reasons.next_back().unwrap();
    assert!(reasons.all(|reason| reason.is_null()));
    last
}

#[rstest]
#[case(json!({ "prompt": "Tell me", "temperature": 0, "max_tokens": 60 }))]
#[case(json!({ "prompt": "Tell me", "temperature": 1.3, "seed": 5, "max_tokens": 60, "ignore_eos": true }))]
#[case(json!({ "prompt": [5, 6, 7], "temperature": 0, "max_tokens": 9, "echo": true, "logprobs": 3 }))]
#[case(json!({ "prompt": [5, 6, 7], "max_tokens": 0, "echo": true, "logprobs": 1 }))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pieces_of_a_completion_are_the_whole(#[case] mut body: Value) {
    let server = server(&[]).await;
    let whole = server.complete(body.clone()).await;
    body["stream_options"] = json!({ "include_usage": true });
    let chunks = server.stream("/v1/completions", body).await;
    assert_eq!(
        json!(joined(&chunks, "/choices/0/text")),
        whole["choices"][0]["text"]
    );
    assert_eq!(reason(&chunks), whole["choices"][0]["finish_reason"]);
    assert_eq!(chunks.last().unwrap()["usage"], whole["usage"]);
    assert_eq!(chunks.last().unwrap()["choices"], json!([]));
    for array in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        let pieces = chunks.iter().filter_map(|chunk| {
            chunk
                .pointer(&format!("/choices/0/logprobs/{array}"))?
                .as_array()
        });
        let pieces: Vec<Value> = pieces.flatten().cloned().collect();
        let expected = &whole["choices"][0]["logprobs"][array];
        assert_eq!(
            pieces,
            *expected.as_array().unwrap_or(&Vec::new()),
            "{array}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pieces_of_a_chat_are_the_whole() {
    let server = server(&[]).await;
    let body = json!({
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": "Hel" }, { "type": "text", "text": "lo" }] }],
        "temperature": 0, "max_completion_tokens": 30, "logprobs": true, "top_logprobs": 2,
    });
    let (_, whole) = server.post(CHAT, &body).await;
    let choice = &whole["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(whole["object"], "chat.completion");
    let chunks = server.stream(CHAT, body.clone()).await;
    assert_eq!(
        chunks[0]["choices"][0]["delta"],
        json!({ "role": "assistant", "content": "" })
    );
    assert_eq!(
        json!(joined(&chunks, "/choices/0/delta/content")),
        choice["message"]["content"]
    );
    assert_eq!(reason(&chunks), choice["finish_reason"]);
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["usage"].is_null())
    );
    let scores = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(json!(scores.len()), whole["usage"]["completion_tokens"]);
    assert!(scores.iter().all(
        |score| score["logprob"] == score["top_logprobs"][0]["logprob"]
            && score["top_logprobs"][1].is_object()
    ));

    // One text is the same as its parts.
    let mut plain = body;
    plain["messages"] = json!([{ "role": "user", "content": "Hello" }]);
    let (_, plain) = server.post(CHAT, &plain).await;
    assert_eq!(plain["choices"], whole["choices"]);
    assert_eq!(plain["usage"], whole["usage"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_ends_before_a_stop_string() {
    let server = server(&[]).await;
    let body =
        json!({ "prompt": "Tell me", "temperature": 0, "max_tokens": 60, "ignore_eos": true });
    let whole = server.complete(body.clone()).await;
    let text = whole["choices"][0]["text"].as_str().unwrap();
    let letters: Vec<char> = text.chars().collect();
    let stop: String = letters[20..24].iter().collect();
    let before = &text[..text.find(&stop).unwrap()];
    let mut body = body;
    body["stop"] = json!([stop]);
    let cut = server.complete(body.clone()).await;
    assert_eq!(cut["choices"][0]["text"], before);
    assert_eq!(cut["choices"][0]["finish_reason"], "stop");
    assert!(
        cut["usage"]["completion_tokens"].as_u64() < whole["usage"]["completion_tokens"].as_u64()
    );
    let chunks = server.stream("/v1/completions", body).await;
    assert_eq!(joined(&chunks, "/choices/0/text"), before);
    assert_eq!(reason(&chunks), "stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_token_ends_the_answer_and_is_no_text() {
    let server = server(&[]).await;
    // A random model says its end of turn sooner or later; the seeds are tried until one does.
    for seed in 0..200 {
        let body = json!({ "prompt": "x", "temperature": 2, "max_tokens": 100, "seed": seed, "logprobs": 0 });
        let answer = server.complete(body).await;
        let choice = &answer["choices"][0];
        if choice["finish_reason"] == "stop" {
            let tokens = choice["logprobs"]["tokens"].as_array().unwrap();
            assert_eq!(tokens.last().unwrap(), "<|im_end|>");
            assert_eq!(answer["usage"]["completion_tokens"], tokens.len());
            assert!(!choice["text"].as_str().unwrap().contains("<|im_end|>"));
            return;
        }
    }
    panic!("no answer ended by itself");
}
