//! What is said before an instruction, and calls in turns of ShareGPT, as LLaMA-Factory writes them.

use rstest::rstest;

use super::*;
use crate::rows::json::Json;

const HISTORY: &str = r#"{"instruction":"And in winter?","input":"","output":"Less.","system":"You are a gardener.","history":[["How often?","Weekly."],["With what?","Rain."]]}"#;

fn before(content: &RowContent) -> Vec<(&str, &str)> {
    let RowContent::Alpaca { before, .. } = content else {
        panic!("{content:?}");
    };
    before
        .iter()
        .map(|turn| (turn.role.as_str(), turn.content.as_deref().unwrap()))
        .collect()
}

#[test]
fn system_and_history_of_an_alpaca_row_are_turns_before_the_instruction() {
    let content = only(read(Format::Auto, HISTORY).unwrap());
    assert_eq!(
        before(&content),
        [
            ("system", "You are a gardener."),
            ("user", "How often?"),
            ("assistant", "Weekly."),
            ("user", "With what?"),
            ("assistant", "Rain."),
        ]
    );
    assert_eq!(content.texts().len(), 8);
    assert!(content.words().starts_with("How often?\nWeekly."));
    let other = HISTORY.replace("Weekly.", "Daily.");
    assert_ne!(
        only(read(Format::Auto, other).unwrap()).hash(),
        content.hash()
    );
}

#[test]
fn a_table_has_the_history_as_json_in_a_text_and_both_under_names_of_its_own() {
    let table = "task,reply,persona,past\nAnd in winter?,Less.,You are a gardener.,\"[[\"\"How often?\"\",\"\"Weekly.\"\"],[\"\"With what?\"\",\"\"Rain.\"\"]]\"\n";
    let columns = Columns {
        instruction: Some("task".into()),
        output: Some("reply".into()),
        system: Some("persona".into()),
        history: Some("past".into()),
        ..Columns::default()
    };
    let mut reader = RowReader::new(Format::Alpaca).with_columns(&columns);
    reader.read("a.csv", table.as_bytes()).unwrap();
    assert_eq!(
        only(reader.finish().unwrap()),
        only(read(Format::Auto, HISTORY).unwrap())
    );
}

#[rstest]
#[case(
    r#""text""#,
    "data_type: `history` is text, and no list as JSON, expected a list of pairs, [question, answer]"
)]
#[case(
    r#"{"a":1}"#,
    "data_type: `history` is an object, expected a list of pairs"
)]
#[case(
    r#"["a"]"#,
    "data_type: `history[0]` is text, expected a question and its answer"
)]
#[case(
    r#"[["a","b"],["a"]]"#,
    "data_type: `history[1]` is a list of 1 values, expected a question and its answer"
)]
#[case(
    r#"[["a",null]]"#,
    "data_type: `history[0]` is a list of text and null, expected a question and its answer"
)]
#[case(r#"[["a","b","c"]]"#, "data_type: `history[0]` is a list of 3 values")]
fn a_history_that_is_no_list_of_pairs_is_refused(#[case] history: &str, #[case] expected: &str) {
    let row = format!(r#"{{"instruction":"i","output":"o","history":{history}}}"#);
    let message = read(Format::Auto, row).unwrap_err().to_string();
    assert!(message.contains(expected), "{message}");
}

#[test]
fn calls_and_their_results_are_turns_of_share_gpt_and_bare_tools_get_their_frame() {
    let found = conversation(
        r#"{"conversations":[{"from":"human","value":"How many lamps?"},{"from":"function_call","value":"{\"name\": \"stock\", \"arguments\": {\"article\": \"lamp\"}}"},{"from":"observation","value":"7"},{"from":"gpt","value":"Seven."}],"system":"s","tools":"[{\"name\": \"stock\", \"parameters\": {}}]"}"#,
    );
    let same = conversation(
        r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"How many lamps?"},{"role":"assistant","tool_calls":[{"type":"function","function":{"name":"stock","arguments":{"article":"lamp"}}}]},{"role":"tool","content":"7"},{"role":"assistant","content":"Seven."}],"tools":[{"type":"function","function":{"name":"stock","parameters":{}}}]}"#,
    );
    assert_eq!(found, same);
    let two = conversation(
        r#"{"conversations":[{"from":"human","value":"q"},{"from":"function_call","value":"[{\"name\":\"f\",\"arguments\":{}},{\"name\":\"g\",\"arguments\":\"{}\"}]","weight":0}]}"#,
    );
    let Json::List(calls) = &two.messages[1].fields[TOOL_CALLS] else {
        panic!("{two:?}");
    };
    assert_eq!((calls.len(), two.messages[1].trained), (2, false));
}

#[rstest]
#[case(
    r#""stock()""#,
    "invalid_tool_calls: `conversations[0].value` is text, expected a call"
)]
#[case(
    "[]",
    "invalid_tool_calls: `conversations[0].value` is a list, expected a call"
)]
#[case(
    "null",
    "invalid_tool_calls: `conversations[0].value` is null, expected a call"
)]
#[case(
    r#""{\"name\":\"f\"}""#,
    "`conversations[0].value[0].function.arguments` is absent, expected an object"
)]
#[case(
    r#""{\"arguments\":{}}""#,
    "`conversations[0].value[0].function.name` is absent or no text"
)]
fn a_call_of_share_gpt_that_is_none_is_refused(#[case] value: &str, #[case] expected: &str) {
    let row = format!(r#"{{"conversations":[{{"from":"function_call","value":{value}}}]}}"#);
    let message = read(Format::Auto, row).unwrap_err().to_string();
    assert!(message.contains(expected), "{message}");
}

#[test]
fn conversations_with_roles_are_refused_with_the_setting_that_reads_them() {
    let row = MESSAGES.replace("messages", "conversations");
    let message = read(Format::Auto, &row).unwrap_err().to_string();
    assert!(
        message.contains("set dataset.columns: { messages: conversations }"),
        "{message}"
    );
    let columns = Columns {
        messages: Some("conversations".into()),
        ..Columns::default()
    };
    let mut reader = RowReader::new(Format::Auto).with_columns(&columns);
    reader.read("a.jsonl", row.as_bytes()).unwrap();
    assert_eq!(
        only(reader.finish().unwrap()),
        RowContent::Messages(conversation(MESSAGES))
    );
}
