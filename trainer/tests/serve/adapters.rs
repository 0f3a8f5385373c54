//! Several adapters on one base, and vLLM's routes to load and unload them.

use futures::StreamExt;
use reqwest::StatusCode;
use rstest::rstest;
use serde_json::{Value, json};

use crate::client::{Server, adapter_path, endless, long, server, started};

fn greedy(model: &str) -> Value {
    json!({ "model": model, "prompt": "What is your name", "temperature": 0, "max_tokens": 30, "ignore_eos": true })
}

async fn text(server: &Server, model: &str) -> String {
    server.complete(greedy(model)).await["choices"][0]["text"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn names(server: &Server) -> Vec<String> {
    let list: Value =
        serde_json::from_str(&server.get("/v1/models").await.text().await.unwrap()).unwrap();
    list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|card| card["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn base_and_adapters_answer_differently_and_at_once_as_they_do_alone() {
    let first = format!("first={}", adapter_path("tiny-llama"));
    let second = format!("second={}", adapter_path("tiny-llama-rslora"));
    let server = server(&["--adapter", &first, "--adapter", &second]).await;
    let alone = [
        text(&server, "tiny").await,
        text(&server, "first").await,
        text(&server, "second").await,
    ];
    assert!(
        alone[0] != alone[1] && alone[1] != alone[2] && alone[0] != alone[2],
        "{alone:?}"
    );
    let models = ["tiny", "first", "second"].repeat(4);
    let together = futures::future::join_all(models.iter().map(|model| text(&server, model))).await;
    assert_eq!(together, [alone.as_slice(); 4].concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adapter_comes_and_goes_as_with_vllm() {
    let server = server(&[]).await;
    let path = adapter_path("tiny-llama");
    let (status, body) = server.load("support@4f0c", &path).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(
        body,
        "Success: LoRA adapter 'support@4f0c' added successfully."
    );

    let list: Value =
        serde_json::from_str(&server.get("/v1/models").await.text().await.unwrap()).unwrap();
    assert_eq!(list["object"], "list");
    let [base, card] = list["data"].as_array().unwrap().as_slice() else {
        panic!("{list}")
    };
    assert_eq!(base["id"], "tiny");
    assert_eq!(base["parent"], Value::Null);
    assert_eq!(base["max_model_len"], 128);
    assert_eq!(
        (&card["id"], &card["root"], &card["parent"]),
        (&json!("support@4f0c"), &json!(path), &json!("tiny"))
    );
    assert_eq!(card["object"], "model");
    assert!(card["created"].as_i64().unwrap() > 1_700_000_000);
    assert_ne!(
        text(&server, "support@4f0c").await,
        text(&server, "tiny").await
    );

    let (status, body) = server.unload("support@4f0c").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(names(&server).await, ["tiny"]);
    let (status, _) = server
        .post("/v1/completions", &greedy("support@4f0c"))
        .await;
    assert_eq!(
        status,
        StatusCode::NOT_FOUND,
        "an unloaded adapter must never be answered by the base"
    );
}

#[rstest]
#[case::duplicate("first", "tiny-llama", 400, "InvalidUserInput", "already been loaded")]
#[case::base_name("tiny", "tiny-llama", 400, "InvalidUserInput", "base model's name")]
#[case::empty_name("", "tiny-llama", 400, "InvalidUserInput", "must be provided")]
#[case::control_character(
    "a\nb",
    "tiny-llama",
    400,
    "InvalidUserInput",
    "'lora_name' has the control character"
)]
#[case::missing("new", "nowhere", 404, "NotFoundError", "adapter_config.json")]
#[case::another_base("new", "tiny-llama-64", 400, "BadRequestError", "lora_A")]
#[case::too_many("new", "tiny-llama-rslora", 409, "ConflictError", "--max-adapters")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_loaded_is_refused(
    #[case] name: &str,
    #[case] adapter: &str,
    #[case] status: u16,
    #[case] kind: &str,
    #[case] message: &str,
) {
    let first = format!("first={}", adapter_path("tiny-llama"));
    let most = if message == "--max-adapters" {
        "1"
    } else {
        "2"
    };
    let server = server(&["--adapter", &first, "--max-adapters", most]).await;
    let (found, body) = server.load(name, &adapter_path(adapter)).await;
    assert_eq!(found.as_u16(), status, "{body}");
    assert_eq!(body["error"]["code"], status);
    assert_eq!(body["error"]["type"], kind);
    assert!(
        body["error"]["message"].as_str().unwrap().contains(message),
        "{body}"
    );
    assert_eq!(names(&server).await, ["tiny", "first"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_ranks_and_names_out_of_bounds_are_refused() {
    let server = server(&["--max-adapter-rank", "3"]).await;
    let (status, body) = server.load("new", "adapters/tiny-llama").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("absolute"),
        "{body}"
    );
    let (status, body) = server.load("new", &adapter_path("tiny-llama")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("rank is 4, expected at most 3"),
        "{body}"
    );
    let long = "x".repeat(513);
    let (status, body) = server.load(&long, &adapter_path("tiny-llama")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("'lora_name' has 513 characters, expected at most 512"),
        "{body}"
    );
    let (status, body) = server.unload("never").await;
    assert_eq!(
        (status, &body["error"]["type"]),
        (StatusCode::NOT_FOUND, &json!("NotFoundError"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_answer_keeps_its_adapter_to_the_end() {
    let (server, _folder) = endless(&[]).await;
    let path = adapter_path("tiny-llama");
    assert_eq!(server.load("support", &path).await.0, StatusCode::OK);
    let mut body = long(2000);
    body["model"] = json!("support");
    let whole = server.stream("/v1/completions", body.clone()).await;
    let mut stream = started(&server, &body).await;
    assert_eq!(server.unload("support").await.0, StatusCode::OK);
    let mut rest = Vec::new();
    while let Some(bytes) = stream.next().await {
        rest.extend_from_slice(&bytes.unwrap());
    }
    let rest = String::from_utf8(rest).unwrap();
    assert!(
        rest.contains("\"finish_reason\":\"length\"") && rest.ends_with("data: [DONE]\n\n"),
        "{rest}"
    );
    let last_words = whole[whole.len() - 2]["choices"][0]["text"].to_string();
    assert!(rest.contains(&last_words), "{last_words}");
}
