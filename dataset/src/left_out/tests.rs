//! What templates that leave something out are told to leave out.

use std::collections::BTreeMap;

use rstest::rstest;

use super::*;

const TIME: Time = Time::Day(jiff::civil::Date::constant(2026, 1, 2));

fn said(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

fn found(source: &str, messages: Vec<Message>, tools: Vec<Json>) -> Result<Vec<LeftOut>, String> {
    let template = ChatTemplate::new(source, &BTreeMap::new()).unwrap();
    let conversation = Conversation { messages, tools };
    let learnt: Vec<usize> = (0..conversation.messages.len())
        .filter(|index| conversation.messages[*index].is_assistant())
        .collect();
    let text = template
        .render_any(&conversation.messages, &conversation.tools, false, TIME)
        .unwrap()
        .text;
    of(&template, &conversation, &learnt, TIME, &text).map_err(|error| error.to_string())
}

const PLAIN: &str = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}";
const WITHOUT_THOUGHTS: &str =
    "{% for m in messages %}{{ m.role }}: {{ m.content.split('</think>')[-1] }}\n{% endfor %}";
const LAST_THOUGHT: &str = "{% for m in messages %}{{ m.role }}: {% if loop.last %}{{ m.content }}{% else %}\
    {{ m.content.split('</think>')[-1] }}{% endif %}\n{% endfor %}";

fn with(mut message: Message, key: &str, value: Json) -> Message {
    message.fields.insert(key.to_owned(), value);
    message
}

fn json(text: &str) -> Json {
    serde_json::from_str(text).unwrap()
}

/// A turn that calls and has no content.
fn calling_alone() -> Message {
    let calls = json(r#"[{"function":{"name":"stock","arguments":{"of":"lamp"}}}]"#);
    let mut message = with(said("assistant", ""), TOOL_CALLS, calls);
    message.content = None;
    message
}

#[test]
fn what_is_printed_is_not_left_out_though_it_is_trimmed() {
    let messages = vec![
        said("user", "  a\n\n b "),
        said("assistant", "<think>x</think> 7 \n"),
    ];
    assert_eq!(found(PLAIN, messages, Vec::new()), Ok(Vec::new()));
}

#[rstest]
#[case::a_thought(
    WITHOUT_THOUGHTS,
    said("assistant", "<think>Seven less two.</think>Five."),
    "the reasoning in `messages[1].content`, which is to be learnt"
)]
#[case::reasoning(
    PLAIN,
    with(said("assistant", "Five."), "reasoning_content", Json::Text("Seven less two.".to_owned())),
    "`messages[1].reasoning_content`, which is to be learnt"
)]
#[case::calls_beside_words(
    PLAIN,
    with(
        said("assistant", "Five."),
        TOOL_CALLS,
        json(r#"[{"function":{"name":"stock","arguments":{"of":"lamp"}}}]"#)
    ),
    "`messages[1].tool_calls`, which is to be learnt"
)]
#[case::calls_alone_on_a_template_that_adds_the_content_to_a_text(
    "{% for m in messages %}{{ m.role + ': ' + m.content }}\n{% endfor %}",
    calling_alone(),
    "`messages[1].tool_calls`, which is to be learnt"
)]
#[case::arguments(
    "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}{% endfor %}",
    with(
        said("assistant", "Five."),
        TOOL_CALLS,
        json(r#"[{"function":{"name":"stock","arguments":"{\"of\":\"lamp\"}"}}]"#)
    ),
    "`messages[1].tool_calls`, which is to be learnt"
)]
#[case::words(
    "{% for m in messages %}{{ m.content.split('\n')[0] }}{% endfor %}",
    said("assistant", "Five.\nAre left."),
    "a part of `messages[1].content`, which is to be learnt"
)]
fn what_is_learnt_and_left_out_is_refused_by_name(
    #[case] source: &str,
    #[case] answer: Message,
    #[case] named: &str,
) {
    let messages = vec![said("user", "How many?"), answer];
    let error = found(source, messages, Vec::new()).unwrap_err();
    assert!(
        error.starts_with(&format!("the chat template leaves out {named}:")),
        "{error}"
    );
}

#[test]
fn words_beside_calls_that_a_template_drops_by_design_are_told() {
    let source = "{% for m in messages %}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    let calls = json(r#"[{"function":{"name":"stock","arguments":{"of":"lamp"}}}]"#);
    let answer = with(said("assistant", "Let me look."), TOOL_CALLS, calls);
    let left_out = found(source, vec![said("user", "7?"), answer], Vec::new()).unwrap();
    assert_eq!(left_out.len(), 1);
    assert_eq!(
        (left_out[0].part, left_out[0].learnt),
        (Part::WordsBesideCalls, true)
    );
}

#[test]
fn an_answer_that_is_not_printed_is_refused() {
    let source = "{% for m in messages if m.role != 'assistant' %}{{ m.content }}\n{% endfor %}";
    let messages = vec![said("user", "7?"), said("assistant", "7")];
    let error = found(source, messages, Vec::new()).unwrap_err();
    assert!(
        error.starts_with("the chat template leaves out `messages[1]`, which is to be learnt:"),
        "{error}"
    );
}

#[rstest]
#[case("tool")]
#[case("system")]
#[case("user")]
fn a_turn_of_another_that_is_not_printed_is_told(#[case] role: &str) {
    let source = format!(
        "{{% for m in messages if m.role != '{role}' %}}{{{{ m.content }}}}\n{{% endfor %}}"
    );
    let messages = vec![said(role, "7"), said("assistant", "7")];
    let left_out = found(&source, messages, Vec::new()).unwrap();
    assert_eq!(left_out.len(), 1);
    assert_eq!(
        (left_out[0].part, left_out[0].message),
        (Part::Turn, Some(0))
    );
}

#[test]
fn the_thoughts_of_earlier_turns_that_a_template_drops_by_design_are_told() {
    let thought = |text: &str| said("assistant", &format!("<think>{text}</think>{text}."));
    let messages = vec![
        said("user", "a"),
        thought("b"),
        said("user", "c"),
        thought("d"),
    ];
    let left_out = found(LAST_THOUGHT, messages, Vec::new()).unwrap();
    assert_eq!(
        left_out,
        [LeftOut {
            part: Part::Thought,
            message: Some(1),
            learnt: true,
            earlier: true
        }]
    );
}

#[test]
fn tools_and_names_that_are_left_out_are_told() {
    let tools = vec![json(
        r#"{"function":{"name":"stock","description":"counts"}}"#,
    )];
    let name = Json::Text("Ada".to_owned());
    let messages = vec![
        with(said("user", "stock?"), "name", name),
        said("assistant", "7"),
    ];
    let left_out = found(PLAIN, messages, tools).unwrap();
    let parts: Vec<String> = left_out.iter().map(ToString::to_string).collect();
    assert_eq!(parts, ["`messages[0].name`", "`tools`"]);
}

#[test]
fn json_in_ascii_is_read_too() {
    let source = "{% for m in messages %}{{ m | tojson(ensure_ascii=true) }}{% endfor %}";
    let messages = vec![said("user", "Grüße"), said("assistant", "東京")];
    assert_eq!(found(source, messages, Vec::new()), Ok(Vec::new()));
}

#[test]
fn a_template_that_asks_for_certain_words_is_looked_at_as_it_is() {
    let source = "{% if messages[0].content != 'exactly this' %}{{ raise_exception('no') }}{% endif %}\
                  {{ messages[0].content }}";
    let messages = vec![said("user", "exactly this"), said("assistant", "gone")];
    let error = found(source, messages, Vec::new()).unwrap_err();
    assert!(error.contains("`messages[1]`"), "{error}");
}
