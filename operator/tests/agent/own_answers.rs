//! What the agent answers by itself: the list of models, and what it refuses.

use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::fake_engine::{BASE, BASE_CREATED, CONTEXT, Fault, VERSION_CREATED};
use operator::agent::desired::Role::Stable;

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_models_says_what_the_engine_says_of_them_and_no_path_of_the_pod() {
    let bench = Bench::start().await;
    let one = bench.publish("tone", 0.25).await;
    bench.desire(&[("tone", &[(&one, Stable)])]);
    bench.until_ready().await;
    let get = async |path: &str| {
        let url = format!("http://{}{path}", bench.proxy());
        let response = bench.client.get(url).send().await.unwrap();
        response.json::<Value>().await.unwrap()
    };
    let card = |id: &str, parent: Option<&str>, created: u64| {
        json!({
            "id": id, "object": "model", "created": created, "owned_by": "finetune-operator", "parent": parent,
            "max_model_len": CONTEXT,
        })
    };
    let (base, tone) = (
        card(BASE, None, BASE_CREATED),
        card("tone", Some(BASE), VERSION_CREATED),
    );
    assert_eq!(
        get("/v1/models").await,
        json!({"object": "list", "data": [base, tone]})
    );
    assert_eq!(get("/v1/models/tone").await, tone);
}

#[rstest]
#[case::no_model("POST /v1/completions", r#"{"prompt": "a"}"#, 400, Some("model"))]
#[case::no_json("POST /v1/chat/completions", "{", 400, None)]
#[case::unknown_model("POST /v1/completions", r#"{"model": "none"}"#, 404, Some("model"))]
#[case::unknown_name("GET /v1/models/none", "", 404, Some("model"))]
#[case::no_name("GET /v1/models/%ff", "", 400, Some("model"))]
#[case::no_route("POST /v1/embeddings", "{}", 404, None)]
#[case::no_method("GET /v1/completions", "", 405, None)]
#[case::not_ready("POST /v1/completions", r#"{"model": "tone"}"#, 503, None)]
#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_refuses_reads_as_what_the_engine_refuses(
    #[case] route: &str,
    #[case] body: &'static str,
    #[case] status: u16,
    #[case] field: Option<&str>,
) {
    let kind = match status {
        404 => "NotFoundError",
        503 => "ServiceUnavailableError",
        _ => "BadRequestError",
    };
    let (method, path) = route.split_once(' ').unwrap();
    let method: Method = method.parse().unwrap();
    let bench = Bench::start().await;
    bench.engine.with().fault = Some(Fault::RefusedLoads);
    let one = bench.publish("tone", 0.25).await;
    bench.desire(&[("tone", &[(&one, Stable)])]);
    bench
        .until("with an engine", |state| state.engine.reachable)
        .await;
    let url = format!("http://{}{path}", bench.proxy());
    let request = bench.client.request(method, url).body(body);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), status);
    let retry = response.headers().contains_key("retry-after");
    assert_eq!(retry, status == 503);
    let error = response.json::<Value>().await.unwrap()["error"].clone();
    assert_eq!(
        (&error["type"], &error["param"], &error["code"]),
        (&json!(kind), &json!(field), &json!(status)),
        "{error}"
    );
}
