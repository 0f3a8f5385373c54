//! What is null or empty is absent, in every format of file and of row; what says something is never passed over.

use rstest::rstest;

use super::*;

const EMPTY: [&str; 4] = ["null", r#""""#, "[]", "{}"];

#[test]
fn fields_of_a_message_that_are_null_or_empty_are_absent() {
    let fields = [
        "annotations",
        "refusal",
        "audio",
        "function_call",
        "provider_specific_fields",
        "reasoning",
        "reasoning_content",
        "tool_calls",
        "tool_call_id",
        "name",
        "cache_control",
        "x",
    ];
    let plain = conversation(MESSAGES);
    for field in fields {
        for empty in EMPTY {
            for said in [r#""content":"q""#, r#""content":"a""#] {
                let row = MESSAGES.replace(said, &format!(r#"{said},"{field}":{empty}"#));
                assert_eq!(conversation(&row), plain, "{row}");
            }
        }
    }
}

#[rstest]
#[case("refusal", r#""I cannot say that.""#)]
#[case("annotations", r#"[{"type":"url_citation"}]"#)]
#[case("audio", r#"{"id":"1"}"#)]
#[case("function_call", r#"{"name":"f","arguments":"{}"}"#)]
#[case("prefix", "false")]
#[case("index", "0")]
fn fields_of_a_message_that_say_something_are_refused_by_name(
    #[case] field: &str,
    #[case] value: &str,
) {
    let said = r#""content":"a""#;
    let row = MESSAGES.replace(said, &format!(r#"{said},"{field}":{value}"#));
    let message = read(Format::Auto, row).unwrap_err().to_string();
    assert!(
        message.contains(&format!(
            "message_unrecognized_key: `messages[1]` has the field `{field}`"
        )),
        "{message}"
    );
}

#[test]
fn a_turn_that_calls_may_have_its_content_in_any_form_of_nothing() {
    let call = r#""tool_calls":[{"type":"function","function":{"name":"f","arguments":"{}"}}]"#;
    for content in ["", r#""content":null,"#, r#""content":[],"#] {
        let row = format!(r#"{{"messages":[{{"role":"assistant",{content}{call}}}]}}"#);
        assert_eq!(conversation(&row).messages[0].content, None, "{row}");
    }
    let row = format!(r#"{{"messages":[{{"role":"assistant","content":"",{call}}}]}}"#);
    let empty = conversation(&row);
    assert_eq!(empty.messages[0].content.as_deref(), Some(""));
    assert!(!RowContent::Messages(empty).has_empty_completion());
}

#[test]
fn parts_of_a_content_and_turns_of_share_gpt_may_have_empty_fields() {
    for empty in EMPTY {
        let parts = format!(
            r#"{{"messages":[{{"role":"assistant","content":[{{"type":"text","text":"a","annotations":{empty}}}]}}]}}"#
        );
        assert_eq!(conversation(&parts).messages[0].parts, ["a"]);
        let turns = format!(
            r#"{{"conversations":[{{"from":"human","value":"q","markdown":{empty}}},{{"from":"gpt","value":"a","weight":null,"text":{empty}}}],"system":{empty},"tools":{empty}}}"#
        );
        assert_eq!(conversation(&turns), conversation(MESSAGES));
    }
}

#[test]
fn optional_columns_may_be_empty_in_json_and_in_csv() {
    for empty in EMPTY {
        let row = MESSAGES.replacen('{', &format!(r#"{{"tools":{empty},"#), 1);
        assert_eq!(conversation(&row), conversation(MESSAGES));
        let row = format!(
            r#"{{"instruction":"i","input":{empty},"output":"o","system":{empty},"history":{empty}}}"#
        );
        let plain = r#"{"instruction":"i","output":"o"}"#;
        let rows = [row.as_str(), plain].map(|row| only(read(Format::Auto, row).unwrap()));
        assert_eq!(rows[0], rows[1]);
    }
    let messages: serde_json::Value = serde_json::from_str(MESSAGES).unwrap();
    let quoted = messages["messages"].to_string().replace('"', "\"\"");
    let rows = read_file(
        "a.csv",
        Format::Auto,
        format!("messages,tools\n\"{quoted}\",\n"),
    )
    .unwrap();
    assert_eq!(only(rows), RowContent::Messages(conversation(MESSAGES)));
    let rows = read_file(
        "a.csv",
        Format::Auto,
        "instruction,input,output,system,history\ni,,o,,\n",
    )
    .unwrap();
    assert_eq!(
        only(rows),
        only(read(Format::Auto, r#"{"instruction":"i","output":"o"}"#).unwrap())
    );
}

#[test]
fn a_table_with_the_columns_of_two_formats_is_read_by_those_that_say_something() {
    let rows = read_file("a.csv", Format::Auto, "messages,tools,text\n,,plain\n").unwrap();
    assert_eq!(only(rows), RowContent::Text("plain".into()));
}

#[test]
fn what_spreadsheets_leave_behind_is_no_row_and_no_fault() {
    let text = "prompt,completion,,\np,c,,\n,,,\n,d,,\n,,,\n";
    let rows = read_file("a.csv", Format::Auto, text).unwrap();
    let lines: Vec<usize> = rows.rows.iter().map(|row| row.line).collect();
    assert_eq!(lines, [2, 4]);
    assert_eq!(rows.unread.warning(), None);
}
