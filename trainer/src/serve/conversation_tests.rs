use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::serve::tools::{Format, ToolCalls};

const CALLS: ToolCalls = ToolCalls {
    format: Some(Format::Hermes),
    left_as_text: false,
};

/// A family out of the fixtures.
fn family(name: &str) -> Value {
    let expected =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/expected/templates.json");
    let families: Value = serde_json::from_slice(&std::fs::read(expected).unwrap()).unwrap();
    families[name].clone()
}

fn template(name: &str) -> ChatTemplate {
    let family = family(name);
    let token = |key: &str| family[key].as_str().unwrap_or_default().to_owned();
    let special = BTreeMap::from([
        ("bos_token".to_owned(), token("bos")),
        ("eos_token".to_owned(), token("eos")),
    ]);
    ChatTemplate::new(family["plain"].as_str().unwrap(), &special).unwrap()
}

fn prompt_of(name: &str, request: &str) -> Result<Prompt, (String, String)> {
    let request: ChatRequest = serde_json::from_str(request).unwrap();
    prompt(&request, &template(name), CALLS, &|_| Ok(())).map_err(|error| refused(&error))
}

/// The field that is at fault, and what is said of it.
fn refused(error: &RequestError) -> (String, String) {
    let field = error.param().unwrap_or_default().to_owned();
    (field, error.to_string())
}

/// A row of training data as a client would send it: arguments as JSON in a text, no weights.
fn as_request(row: &str) -> String {
    let mut row: Json = serde_json::from_str(row).unwrap();
    let Json::Object(fields) = &mut row else {
        panic!("{row:?}")
    };
    let Some(Json::List(messages)) = fields.get_mut("messages") else {
        panic!("no messages")
    };
    for message in messages {
        let Json::Object(message) = message else {
            panic!("{message:?}")
        };
        message.shift_remove("weight");
        if !message.contains_key(TOOL_CALLS) {
            continue;
        }
        message.insert("content".to_owned(), Json::Null);
        let Some(Json::List(calls)) = message.get_mut(TOOL_CALLS) else {
            continue;
        };
        for call in calls {
            let Json::Object(call) = call else {
                panic!("{call:?}")
            };
            let Some(Json::Object(function)) = call.get_mut("function") else {
                panic!("no function")
            };
            // Clients' libraries write the arguments first.
            let arguments = function.shift_remove("arguments").unwrap();
            function.shift_insert(0, "arguments".to_owned(), Json::Text(arguments.to_text()));
        }
    }
    fields.insert("add_generation_prompt".to_owned(), Json::Boolean(false));
    row.to_text()
}

#[rstest]
fn tools_calls_and_results_reach_the_template_as_they_do_in_training(
    #[values("llama3", "qwen2.5", "qwen3", "mistral", "granite")] name: &str,
) {
    let cases = family(name)["cases"].as_array().unwrap().clone();
    let with_tools = cases.iter().filter(|case| {
        let row = case["row"].as_str().unwrap();
        // How a text as arguments is printed is the template's matter; clients always send one, and mean the object.
        row.contains("\"tool_calls\"") && !row.contains("\"arguments\": \"")
    });
    let mut seen = 0;
    for case in with_tools {
        let found = prompt_of(name, &as_request(case["row"].as_str().unwrap())).unwrap();
        assert_eq!(found.text, case["text"].as_str().unwrap());
        assert!(found.functions.contains(&"stock".to_owned()));
        seen += 1;
    }
    assert!(seen > 0);
}

fn with_tools(more: Value) -> String {
    let mut request = json!({
        "messages": [{ "role": "user", "content": "How many?" }],
        "tools": [{ "type": "function", "function": { "name": "stock", "parameters": {} } }],
    });
    for (key, value) in more.as_object().unwrap() {
        request[key] = value.clone();
    }
    request.to_string()
}

#[rstest]
fn tools_that_the_template_does_not_print_are_refused(
    #[values("gemma", "phi3", "olmo2")] name: &str,
) {
    let (field, message) = prompt_of(name, &with_tools(json!({}))).unwrap_err();
    assert_eq!(field, "tools");
    assert!(message.contains("does not print them"), "{message}");
    let none = prompt_of(name, &with_tools(json!({ "tool_choice": "none" }))).unwrap();
    assert_eq!(none.functions, [] as [String; 0]);
}

/// The field and the message of the refusal of a call without content, on a template of this source.
fn refused_call(source: &str, more: Value) -> (String, String) {
    let mut request = json!({ "messages": [
        { "role": "user", "content": "How many?" },
        { "role": "assistant", "tool_calls": [{ "function": { "name": "stock", "arguments": "{}" } }] },
    ] });
    for (key, value) in more.as_object().unwrap() {
        request[key] = value.clone();
    }
    let request: ChatRequest = serde_json::from_str(&request.to_string()).unwrap();
    let template = ChatTemplate::new(source, &BTreeMap::new()).unwrap();
    refused(&prompt(&request, &template, CALLS, &|_| Ok(())).unwrap_err())
}

#[rstest]
#[case::rendered_without("{{ m.role + m.content }}", "does not print")]
#[case::failing("{{ m.content or raise_exception('no') }}", "prints no ")]
fn what_the_template_has_no_place_for_is_named_before_its_failure(
    #[case] turn: &str,
    #[case] words: &str,
) {
    let source = format!("{{% for m in messages %}}{turn}{{% endfor %}}");
    let (field, message) = refused_call(&source, json!({}));
    assert_eq!(field, "messages");
    assert!(
        message.contains(words) && message.contains("calls"),
        "{message}"
    );
    let tools = json!([{ "type": "function", "function": { "name": "stock" } }]);
    let (field, message) = refused_call(&source, json!({ "tools": tools }));
    assert_eq!(field, "tools");
    assert!(
        message.contains(words) && message.contains("tools"),
        "{message}"
    );
}

#[test]
fn whoever_chooses_no_tool_gets_a_prompt_without_them() {
    let told = prompt_of("qwen2.5", &with_tools(json!({}))).unwrap();
    let none = prompt_of("qwen2.5", &with_tools(json!({ "tool_choice": "none" }))).unwrap();
    assert!(told.text.contains("stock") && !none.text.contains("stock"));
    assert_eq!((told.functions.len(), none.functions.len()), (1, 0));
}

#[test]
fn a_form_of_calls_that_is_not_known_is_refused_unless_calls_are_to_be_text() {
    let request: ChatRequest = serde_json::from_str(&with_tools(json!({}))).unwrap();
    let calls = |left_as_text| ToolCalls {
        format: None,
        left_as_text,
    };
    let asked = |left_as_text| {
        let (template, calls) = (template("qwen2.5"), calls(left_as_text));
        prompt(&request, &template, calls, &|_| Ok(()))
    };
    let error = asked(false).unwrap_err();
    assert!(error.to_string().contains("--tool-call-parser"), "{error}");
    asked(true).unwrap();
}

/// What a template of this source makes of a conversation in which so many roles speak, and how often it is rendered.
fn of_roles(
    source: &str,
    roles: usize,
    fits: &dyn Fn(&str) -> Result<(), RequestError>,
) -> (Result<Prompt, RequestError>, usize) {
    let messages = (0..roles).map(|role| json!({ "role": format!("r{role}"), "content": "word" }));
    let messages: Vec<Value> = messages.collect();
    let request = json!({ "messages": messages }).to_string();
    let request: ChatRequest = serde_json::from_str(&request).unwrap();
    let template = ChatTemplate::new(source, &BTreeMap::new()).unwrap();
    let renderings = Cell::new(0);
    let render = |messages: &[Message], tools: &[Json], prompt: bool| {
        renderings.set(renderings.get() + 1);
        template.render(messages, tools, prompt)
    };
    let result = rendered(&request, &render, CALLS, fits);
    (result, renderings.get())
}

const ALL_WORDS: &str = "{% for message in messages %}{{ message.content }}{% endfor %}";

#[rstest]
#[case::as_they_stand(ALL_WORDS, None)]
#[case::refused_with_other_words(
    "{% for m in messages %}{% if m.content != 'word' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}{% endfor %}",
    None
)]
#[case::as_a_number(
    "{% for message in messages %}{{ message.content | length }}{% endfor %}",
    None
)]
#[case::not_at_all("nothing", Some("`r0`"))]
#[case::but_one(
    "{% for message in messages if message.role != 'r7' %}{{ message.content }}{% endfor %}",
    Some("`r7`")
)]
#[case::but_two_one_as_a_number(
    "{% for m in messages if m.role != 'r7' %}{{ (m.content | length) if m.role == 'r3' else m.content }}{% endfor %}",
    Some("`r7`")
)]
fn many_roles_are_rendered_no_more_often_than_a_few(
    #[case] source: &str,
    #[case] refused: Option<&str>,
) {
    let (few, once) = of_roles(source, 20, &|_| Ok(()));
    let (many, again) = of_roles(source, 500, &|_| Ok(()));
    assert_eq!(once, again);
    for result in [few, many] {
        match refused {
            None => assert!(result.is_ok(), "{result:?}"),
            Some(role) => {
                let message = result.unwrap_err().to_string();
                assert!(message.contains(role), "{message}");
            }
        }
    }
}

#[test]
fn a_conversation_that_is_too_long_is_rendered_once() {
    let too_long = |text: &str| Err(RequestError::Request(format!("{} bytes", text.len())));
    let (result, renderings) = of_roles(ALL_WORDS, 20, &too_long);
    assert_eq!(result.unwrap_err().to_string(), "80 bytes");
    assert_eq!(renderings, 1);
}

#[rstest]
#[case::result("olmo2", json!([{ "role": "user", "content": "x" }, { "role": "tool", "content": "7" }]), "`messages[1]`: the model's chat template does not print messages of the role `tool`")]
#[case::call("olmo2", json!([{ "role": "user", "content": "x" }, { "role": "assistant", "content": "y", "tool_calls": [{ "function": { "name": "f", "arguments": "{}" } }] }]), "`messages[1].tool_calls`")]
#[case::thought("olmo2", json!([{ "role": "user", "content": "x" }, { "role": "assistant", "content": "y", "reasoning_content": "z" }]), "`messages[1].reasoning_content`")]
#[case::nothing_said("qwen2.5", json!([{ "role": "assistant", "content": null }]), "`messages[0].content` is missing")]
#[case::no_json("qwen2.5", json!([{ "role": "assistant", "content": null, "tool_calls": [{ "function": { "name": "f", "arguments": "{" } }] }]), "`messages[0].tool_calls[0].function.arguments` is no JSON")]
#[case::no_object("qwen2.5", json!([{ "role": "assistant", "content": null, "tool_calls": [{ "function": { "name": "f", "arguments": "[1]" } }] }]), "`messages[0].tool_calls[0].function.arguments` is a list")]
#[case::users_call("qwen2.5", json!([{ "role": "user", "content": "x", "tool_calls": [{ "function": { "name": "f", "arguments": "{}" } }] }]), "`messages[0].tool_calls` is set and the role is `user`")]
#[case::image("qwen2.5", json!([{ "role": "user", "content": [{ "type": "image_url" }] }]), "`messages[0].content` has a part of type `image_url`")]
fn what_the_template_would_leave_out_or_cannot_show_is_refused_by_name(
    #[case] name: &str,
    #[case] messages: Value,
    #[case] words: &str,
) {
    let request = json!({ "messages": messages }).to_string();
    let (field, message) = prompt_of(name, &request).unwrap_err();
    assert_eq!(field, "messages");
    assert!(message.contains(words), "{message}");
}

#[test]
fn thoughts_that_the_template_prints_in_the_last_turn_are_no_reason_to_refuse_earlier_ones() {
    let messages = json!([
        { "role": "user", "content": "a" }, { "role": "assistant", "content": "b", "reasoning": "thought" },
        { "role": "user", "content": "c" },
    ]);
    prompt_of("qwen3", &json!({ "messages": messages }).to_string()).unwrap();
}

#[rstest]
fn an_answer_goes_on_with_the_last_words(
    #[values(
        "qwen2.5", "qwen3", "mistral", "gemma", "phi3", "granite", "olmo2", "llama3"
    )]
    name: &str,
) {
    let messages =
        json!([{ "role": "user", "content": "Hello" }, { "role": "assistant", "content": "Hi" }]);
    let request = json!({ "messages": messages, "continue_final_message": true });
    let found = prompt_of(name, &request.to_string()).unwrap();
    assert!(found.text.ends_with("Hi"), "{}", found.text);

    let (field, _) = prompt_of(
        name,
        &json!({ "messages": [{ "role": "user", "content": "Hello" }], "continue_final_message": true })
            .to_string(),
    )
    .unwrap_err();
    assert_eq!(field, "continue_final_message");
    let mut both = request;
    both["add_generation_prompt"] = json!(true);
    assert_eq!(
        prompt_of(name, &both.to_string()).unwrap_err().0,
        "add_generation_prompt"
    );
}
