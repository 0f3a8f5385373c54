//! What ends an answer, and what of it clients see.

use rstest::rstest;
use serde_json::{Value, json};

use crate::client::{scripted, serve};

/// `<|end|>` has the id 321.
const SAID: &[(&str, bool)] = &[
    ("The east gate.", false),
    ("<|end|>", true),
    (" And on.", false),
];
const TEMPLATE: &str = "{% for message in messages %}{{ message.role + ': ' + message.content + '\\n' }}{% endfor %}\
                        {% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}";

#[rstest]
#[case::none(json!({}), "The east gate. And on.")]
#[case::special(json!({ "stop": ["<|end|>"] }), "The east gate.")]
#[case::part_of_special(json!({ "stop": "|end" }), "The east gate.")]
#[case::token(json!({ "stop_token_ids": [321] }), "The east gate.")]
#[case::plain_token(json!({ "stop_token_ids": [322] }), "The east gate.")]
#[case::with_eos_ignored(json!({ "stop_token_ids": [322], "ignore_eos": true }), "The east gate.")]
#[case::included(json!({ "stop": ["<|end|>"], "include_stop_str_in_output": true }), "The east gate.<|end|>")]
#[case::included_text(json!({ "stop": ["gate"], "include_stop_str_in_output": true }), "The east gate")]
#[case::included_token(json!({ "stop_token_ids": [321], "include_stop_str_in_output": true }), "The east gate.<|end|>")]
#[case::special_shown(json!({ "skip_special_tokens": false }), "The east gate.<|end|> And on.")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn special_tokens_and_token_ids_end_an_answer_as_texts_do(
    #[case] more: Value,
    #[case] said: &str,
) {
    let folder = scripted(TEMPLATE, SAID);
    let server = serve(folder.path(), &[]).await;
    let mut chat = json!({ "messages": [{ "role": "user", "content": "x" }], "temperature": 0, "max_tokens": 20 });
    let mut completion =
        json!({ "prompt": "user: x\nassistant:", "temperature": 0, "max_tokens": 20 });
    for body in [&mut chat, &mut completion] {
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
    }
    let (_, answer) = server.post("/v1/chat/completions", &chat).await;
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["message"]["content"], &choice["finish_reason"]),
        (&json!(said), &json!("stop"))
    );
    let (_, answer) = server.post("/v1/completions", &completion).await;
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["text"], &choice["finish_reason"]),
        (&json!(said), &json!("stop"))
    );
    let chunks = server.stream("/v1/completions", completion).await;
    let pieces = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["text"].as_str());
    assert_eq!(pieces.collect::<String>(), said);
}
