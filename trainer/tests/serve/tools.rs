//! Functions that a model may call: described in the request, called in the answer.

use reqwest::StatusCode;
use rstest::rstest;
use serde_json::{Value, json};

use crate::client::{Server, fixture, scripted, serve, server};

const CHAT: &str = "/v1/chat/completions";
/// How each form writes the same call, its marks special tokens.
const HERMES: &[(&str, bool)] = &[
    ("Let me look.\n", false),
    ("<tool_call>", true),
    (
        "{\"name\": \"stock\", \"arguments\": {\"z\": 1, \"article\": \"lamp\"}}",
        false,
    ),
    ("</tool_call>", true),
];
const GRANITE: &[(&str, bool)] = &[
    ("<|tool_call|>", true),
    (
        "[{\"name\": \"stock\", \"arguments\": {\"z\": 1, \"article\": \"lamp\"}}]",
        false,
    ),
];
const MISTRAL: &[(&str, bool)] = &[
    ("[TOOL_CALLS]", true),
    (
        " [{\"name\": \"stock\", \"arguments\": {\"z\": 1, \"article\": \"lamp\"}}]",
        false,
    ),
];
const LLAMA: &[(&str, bool)] = &[
    ("{\"name\": \"stock\", ", false),
    ("\"parameters\": {\"z\": 1, \"article\": \"lamp\"}}", false),
];

fn template(family: &str) -> String {
    let families = std::fs::read(fixture("expected/templates.json")).unwrap();
    let families: Value = serde_json::from_slice(&families).unwrap();
    let template = families[family]["plain"].as_str().unwrap();
    // The tiny model ends its turns by another token than Llama.
    template.replace("<|eot_id|>", "<|im_end|>")
}

/// A server whose model has a family's template and says what it is told.
async fn saying(
    family: &str,
    said: &[(&str, bool)],
    flags: &[&str],
) -> (Server, tempfile::TempDir) {
    let folder = scripted(&template(family), said);
    (serve(folder.path(), flags).await, folder)
}

fn request() -> Value {
    json!({
        "messages": [{ "role": "user", "content": "How many lamps are there?" }],
        "tools": [{ "type": "function", "function": {
            "name": "stock", "description": "Pieces in stock",
            "parameters": { "type": "object", "properties": { "article": { "type": "string" } } },
        } }],
        "temperature": 0, "max_tokens": 40,
    })
}

async fn ask(server: &Server, body: &Value) -> Value {
    let (status, answer) = server.post(CHAT, body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["choices"][0].clone()
}

#[rstest]
#[case::hermes("qwen2.5", HERMES, json!("Let me look."))]
#[case::granite("granite", GRANITE, Value::Null)]
#[case::mistral("mistral", MISTRAL, Value::Null)]
#[case::llama3("llama3", LLAMA, Value::Null)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_calls_is_given_as_calls_whole_and_in_pieces_and_can_be_sent_back(
    #[case] family: &str,
    #[case] said: &[(&str, bool)],
    #[case] content: Value,
) {
    let (server, _folder) = saying(family, said, &[]).await;
    let choice = ask(&server, &request()).await;
    assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
    assert_eq!(choice["message"]["content"], content);
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["type"], "function");
    assert_eq!(
        call["function"],
        json!({ "name": "stock", "arguments": "{\"z\":1,\"article\":\"lamp\"}" })
    );
    let id = call["id"].as_str().unwrap();
    match family {
        "mistral" => assert_eq!(id.len(), 9),
        _ => assert!(id.starts_with("call_"), "{id}"),
    }

    let chunks = server.stream(CHAT, request()).await;
    let deltas: Vec<&Value> = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["delta"])
        .collect();
    let text: String = deltas
        .iter()
        .filter_map(|delta| delta["content"].as_str())
        .collect();
    assert_eq!(text, content.as_str().unwrap_or_default());
    let calls: Vec<&Value> = deltas
        .iter()
        .filter_map(|delta| delta["tool_calls"].as_array())
        .flatten()
        .collect();
    assert_eq!(calls.len(), 1, "{chunks:?}");
    assert_eq!(
        (&calls[0]["index"], &calls[0]["function"]),
        (&json!(0), &call["function"])
    );
    let reasons = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["finish_reason"]);
    let reasons: Vec<&Value> = reasons.filter(|reason| !reason.is_null()).collect();
    assert_eq!(reasons, ["tool_calls"]);

    let mut next = request();
    let result = json!({ "role": "tool", "tool_call_id": id, "name": "stock", "content": "7" });
    let messages = next["messages"].as_array_mut().unwrap();
    messages.extend([choice["message"].clone(), result]);
    let (status, answer) = server.post(CHAT, &next).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_text_where_no_tools_are_given_or_calls_are_not_to_be_read() {
    let (server, _folder) = saying("qwen2.5", HERMES, &[]).await;
    let said =
        "Let me look.\n{\"name\": \"stock\", \"arguments\": {\"z\": 1, \"article\": \"lamp\"}}";
    let mut plain = request();
    plain.as_object_mut().unwrap().remove("tools");
    let choice = ask(&server, &plain).await;
    assert_eq!(
        (&choice["message"]["content"], &choice["finish_reason"]),
        (&json!(said), &json!("stop"))
    );
    assert!(choice["message"].get("tool_calls").is_none());
    let mut none = request();
    none["tool_choice"] = json!("none");
    assert_eq!(ask(&server, &none).await["message"]["content"], said);

    let (server, _folder) = saying("qwen2.5", HERMES, &["--tool-call-parser", "none"]).await;
    let choice = ask(&server, &request()).await;
    assert_eq!(
        (&choice["message"]["content"], &choice["finish_reason"]),
        (&json!(said), &json!("stop"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_no_call_is_text_to_the_letter() {
    let said = [
        ("a < b ", false),
        ("<tool_call>", false),
        ("no call", false),
        (" \n", false),
    ];
    let (server, _folder) = saying("qwen2.5", &said, &[]).await;
    let choice = ask(&server, &request()).await;
    assert_eq!(
        choice["message"],
        json!({ "role": "assistant", "content": "a < b <tool_call>no call \n" })
    );
    assert_eq!(choice["finish_reason"], "stop");
    let chunks = server.stream(CHAT, request()).await;
    let deltas = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    assert_eq!(
        json!(deltas.collect::<String>()),
        choice["message"]["content"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_cut_is_text_and_says_so() {
    let (server, _folder) = saying("llama3", LLAMA, &[]).await;
    let mut body = request();
    body["max_tokens"] = json!(1);
    let choice = ask(&server, &body).await;
    assert_eq!(
        (&choice["message"]["content"], &choice["finish_reason"]),
        (&json!("{\"name\": \"stock\", "), &json!("length"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_of_which_the_model_would_see_nothing_are_refused() {
    let server = server(&[]).await;
    let (status, answer) = server.post(CHAT, &request()).await;
    assert_eq!(
        (status, &answer["error"]["param"]),
        (StatusCode::BAD_REQUEST, &json!("tools"))
    );
    let mut forced = request();
    forced["tool_choice"] = json!({ "type": "function", "function": { "name": "stock" } });
    let (status, answer) = server.post(CHAT, &forced).await;
    assert_eq!(
        (status, &answer["error"]["param"]),
        (StatusCode::BAD_REQUEST, &json!("tool_choice"))
    );
}
