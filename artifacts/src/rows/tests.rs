//! What is a row, in every format of file and of row, and what is said of one that is not.

use std::io::Read;

use proptest::prelude::*;
use rstest::rstest;

use super::*;

mod absence;
mod foreign_files;
mod lost;
mod turns;
mod unread_columns;

fn read_file(name: &str, format: Format, text: impl AsRef<[u8]>) -> Result<Rows, Faults> {
    let mut reader = RowReader::new(format);
    reader.read(name, text.as_ref()).unwrap();
    reader.finish()
}

fn read(format: Format, text: impl AsRef<[u8]>) -> Result<Rows, Faults> {
    read_file("train.jsonl", format, text)
}

#[track_caller]
fn only(rows: Rows) -> RowContent {
    let [row] = <[Row; 1]>::try_from(rows.rows).unwrap();
    row.content
}

#[track_caller]
fn conversation(row: &str) -> Conversation {
    match only(read(Format::Auto, row).unwrap()) {
        RowContent::Messages(conversation) => conversation,
        other => panic!("{other:?}"),
    }
}

fn pair(prompt: &str, completion: &str) -> RowContent {
    RowContent::PromptCompletion {
        prompt: prompt.into(),
        completion: completion.into(),
    }
}

const MESSAGES: &str =
    r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#;

#[rstest]
#[case(MESSAGES, RowFormat::Messages)]
#[case(
    r#"{"prompt":"p","completion":"c","id":7}"#,
    RowFormat::PromptCompletion
)]
#[case(r#"{"text":"t"}"#, RowFormat::Text)]
#[case(r#"{"text":"t","messages":null}"#, RowFormat::Text)]
#[case(r#"{"text":"t","messages":[]}"#, RowFormat::Text)]
#[case(r#"{"instruction":"i","output":"o"}"#, RowFormat::Alpaca)]
#[case(
    r#"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}"#,
    RowFormat::ShareGPT
)]
fn the_form_is_read_off_the_first_row(#[case] row: &str, #[case] expected: RowFormat) {
    let rows = read(Format::Auto, row).unwrap();
    assert_eq!(rows.format, Some(expected));
    assert_eq!(rows.rows.len(), 1);
}

#[test]
fn line_ends_byte_order_mark_and_blank_lines_of_other_systems_are_tolerated_and_told() {
    let rows = read(
        Format::Auto,
        "\u{feff}{\"text\":\"a\"}\r\n\r\n{\"text\":\"b\"}\r\n\n",
    )
    .unwrap();
    let lines: Vec<usize> = rows.rows.iter().map(|row| row.line).collect();
    assert_eq!(lines, [1, 3]);
    assert_eq!(rows.byte_order_marks.len(), 1);
    assert_eq!(rows.carriage_returns.len(), 1);
    let plain = read(Format::Auto, "{\"text\":\"a\"}\n").unwrap();
    assert!(plain.byte_order_marks.is_empty() && plain.carriage_returns.is_empty());
}

#[rstest]
#[case::array("a.json", "\n[\n  {\"prompt\": \"p, q\",\n   \"completion\": \"c\"},\n  {\"prompt\": \"\", \"completion\": \"d\\ne\"}\n]\n", &[3, 5])]
#[case::lines_in_json("a.json", "{\"prompt\":\"p, q\",\"completion\":\"c\"}\n{\"prompt\":\"\",\"completion\":\"d\\ne\"}", &[1, 2])]
#[case::no_extension("part-0001", "{\"prompt\":\"p, q\",\"completion\":\"c\"}\n{\"prompt\":\"\",\"completion\":\"d\\ne\"}", &[1, 2])]
#[case::table("a.CSV", "prompt,completion\r\n\"p, q\",c\r\n,\"d\ne\"\r\n", &[2, 3])]
#[case::table_with_mark("a.csv", "\u{feff}prompt,completion\n\"p, q\",c\n\n,\"d\ne\"", &[2, 4])]
fn every_file_format_gives_the_same_rows(
    #[case] name: &str,
    #[case] text: &str,
    #[case] lines: &[usize],
) {
    let rows = read_file(name, Format::Auto, text).unwrap();
    let contents: Vec<&RowContent> = rows.rows.iter().map(|row| &row.content).collect();
    assert_eq!(contents, [&pair("p, q", "c"), &pair("", "d\ne")]);
    let found: Vec<usize> = rows.rows.iter().map(|row| row.line).collect();
    assert_eq!(found, lines);
}

#[rstest]
#[case("notes.txt")]
#[case("README.md")]
fn a_document_is_one_text_with_the_line_ends_of_this_system(#[case] name: &str) {
    let rows = read_file(name, Format::Auto, "# One\r\n\r\nTwo \r\n").unwrap();
    assert_eq!(rows.format, Some(RowFormat::Text));
    assert_eq!(only(rows), RowContent::Document("# One\n\nTwo \n".into()));
    assert!(
        read_file(name, Format::Auto, " \n")
            .unwrap()
            .rows
            .is_empty()
    );
}

#[test]
fn columns_are_found_under_the_names_that_the_files_have() {
    let columns = Columns {
        prompt: Some("question".into()),
        completion: Some("answer".into()),
        ..Columns::default()
    };
    let text = r#"{"question":"q","answer":"a","text":"t"}"#;
    let mut reader = RowReader::new(Format::Auto).with_columns(&columns);
    reader.read("a.jsonl", text.as_bytes()).unwrap();
    let rows = reader.finish().unwrap();
    assert_eq!(
        only(rows),
        pair("q", "a"),
        "`text` is not meant: the named columns are"
    );

    let mut reader = RowReader::new(Format::Auto).with_columns(&columns);
    reader
        .read("a.jsonl", &b"{\"prompt\":\"q\",\"completion\":\"a\"}"[..])
        .unwrap();
    let message = reader.finish().unwrap_err().to_string();
    assert_eq!(
        message,
        "a.jsonl line 1: unrecognized_format: `dataset.columns.prompt` is `question` and `dataset.columns.completion` is \
         `answer`, which the row does not have; the row has the columns `prompt`, `completion`: set it to one of these"
    );
}

#[test]
fn an_alpaca_row_may_lack_its_input() {
    for input in ["", r#","input":"""#, r#","input":null"#] {
        let row = format!(r#"{{"instruction":"i","output":"o"{input}}}"#);
        let expected = RowContent::Alpaca {
            before: Vec::new(),
            instruction: "i".into(),
            input: String::new(),
            output: "o".into(),
        };
        assert_eq!(only(read(Format::Auto, row).unwrap()), expected);
    }
}

#[test]
fn share_gpt_rows_are_conversations_with_the_roles_of_messages() {
    let found = conversation(
        r#"{"system":"s","conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a","weight":0},{"from":"tool","value":"t"},{"from":"assistant","value":"b"}],"tools":"[]"}"#,
    );
    let turns: Vec<(&str, &str, bool)> = found
        .messages
        .iter()
        .map(|m| (m.role.as_str(), m.content.as_deref().unwrap(), m.trained))
        .collect();
    assert_eq!(
        turns,
        [
            ("system", "s", true),
            ("user", "q", true),
            ("assistant", "a", false),
            ("tool", "t", true),
            ("assistant", "b", true)
        ]
    );
}

const CALL: &str = r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":ARGUMENTS}}]},{"role":"tool","tool_call_id":"1","name":"f","content":"7"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"z":1,"a":2}}}]}"#;

#[test]
fn tools_and_calls_keep_the_order_of_their_keys_and_arguments_their_form() {
    let given = conversation(&CALL.replace("ARGUMENTS", r#"{"z":1,"a":[2.0,null]}"#));
    let as_text = conversation(&CALL.replace("ARGUMENTS", r#""{\"z\": 1,\"a\":[2.0,null]}""#));
    assert_eq!(given.messages[1].content, None);
    assert_eq!(
        given.messages[1].fields[TOOL_CALLS].to_text(),
        r#"[{"id":"1","type":"function","function":{"name":"f","arguments":{"z":1,"a":[2.0,null]}}}]"#
    );
    assert_eq!(
        as_text.messages[1].fields[TOOL_CALLS].to_text(),
        r#"[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"z\": 1,\"a\":[2.0,null]}"}}]"#,
        "a text stays the text, to the space"
    );
    assert_eq!(
        given.tools[0].to_text(),
        r#"{"type":"function","function":{"name":"f","parameters":{"z":1,"a":2}}}"#
    );
    let mut quoted: serde_json::Value =
        serde_json::from_str(&CALL.replace("ARGUMENTS", "{}")).unwrap();
    quoted["tools"] = quoted["tools"].to_string().into();
    let quoted = conversation(&quoted.to_string());
    assert_eq!(
        quoted.tools, given.tools,
        "a table has lists as JSON in a text"
    );
}

#[test]
fn fields_of_a_call_that_are_null_are_absent_and_those_of_its_arguments_are_not() {
    let call = r#"{"messages":[{"role":"assistant","tool_calls":[{"id":null,"function":{"strict":null,"name":"f","arguments":{"a":null}}}]}]}"#;
    assert_eq!(
        conversation(call).messages[0].fields[TOOL_CALLS].to_text(),
        r#"[{"function":{"name":"f","arguments":{"a":null}}}]"#
    );
}

#[test]
fn a_weight_of_0_keeps_a_message_from_being_trained() {
    let found = conversation(
        r#"{"messages":[{"role":"assistant","content":"a","weight":0},{"role":"assistant","content":"b","weight":1},{"role":"assistant","content":"c","weight":null}]}"#,
    );
    let trained: Vec<bool> = found
        .messages
        .iter()
        .map(|message| message.trained)
        .collect();
    assert_eq!(trained, [false, true, true]);
}

#[rstest]
#[case(
    Format::Auto,
    r"[1]",
    "data_type: the row is a list, expected a JSON object"
)]
#[case(Format::Auto, r"nonsense", "invalid_json: not a JSON object: expected")]
#[case(
    Format::Auto,
    r#"{"text":"a"} {"text":"b"}"#,
    "invalid_json: not a JSON object: trailing characters at column 14"
)]
#[case(
    Format::Auto,
    r#"{"question":"a"}"#,
    "unrecognized_format: the row has the columns `question`, expected `messages`, or `prompt` and `completion`, or `text`, or `instruction` and `output`, or `conversations`"
)]
#[case(Format::Auto, "{}", "the row has the columns (none)")]
#[case(
    Format::Auto,
    r#"{"text":"a","messages":[{}]}"#,
    "ambiguous_format: the row has the columns of Messages and of Text: set dataset.format"
)]
#[case(
    Format::Text,
    r#"{"prompt":"a"}"#,
    "missing_column: column `text` is absent, expected it in format Text"
)]
#[case(
    Format::Text,
    r#"{"text":null}"#,
    "missing_column: column `text` is null"
)]
#[case(
    Format::Text,
    r#"{"prompt":"a","completion":"b"}"#,
    "mixed_formats: the row is PromptCompletion, expected Text, as dataset.format says"
)]
#[case(
    Format::Text,
    r#"{"text":3}"#,
    "data_type: `text` is a number, expected text"
)]
#[case(
    Format::PromptCompletion,
    r#"{"prompt":[],"completion":""}"#,
    "data_type: `prompt` is a list, expected text; conversations go into"
)]
#[case(
    Format::Alpaca,
    r#"{"instruction":"a","output":"b","input":["c"]}"#,
    "data_type: `input` is a list"
)]
#[case(
    Format::Messages,
    r#"{"chat":[]}"#,
    "missing_messages_list: column `messages` is absent"
)]
#[case(
    Format::Messages,
    r#"{"messages":[]}"#,
    "missing_messages_list: `messages` is empty"
)]
#[case(
    Format::Messages,
    r#"{"messages":{"a":1}}"#,
    "data_type: `messages` is an object, expected a list"
)]
#[case(
    Format::Messages,
    r#"{"messages":"hi"}"#,
    "data_type: `messages` is text, and no list as JSON"
)]
#[case(
    Format::Messages,
    r#"{"messages":["hi"]}"#,
    "data_type: `messages[0]` is text, expected an object"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"content":"a"}]}"#,
    "message_missing_key: `messages[0]` has no `role`"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"user"}]}"#,
    "message_missing_key: `messages[0]` has no `content`"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"user","content":null}]}"#,
    "missing_content: `messages[0].content` is null, expected text"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"user","content":[]}]}"#,
    "missing_content: `messages[0].content` is an empty list"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"u"}}]}]}"#,
    "data_type: `messages[0].content[1]` is of type `image_url`, expected {\"type\": \"text\", \"text\": …}: models are trained on text alone"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"user","content":["a"]}]}"#,
    "data_type: `messages[0].content[0]` is text, expected"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a","cache":1}]}]}"#,
    "data_type: `messages[0].content[0]` has the field `cache`"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"user","content":[{"type":"text","text":null}]}]}"#,
    "data_type: `messages[0].content[0]` has no `text`"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"human","content":"a"}]}"#,
    "unrecognized_role: `messages[0].role` is `human`, expected system, developer, user, assistant, tool"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"user","content":"a"}]}"#,
    "example_missing_assistant_message: `messages` has no message of the assistant"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"assistant","content":"a","weight":0.5}]}"#,
    "invalid_weight: `messages[0].weight` is `0.5`, expected 0 or 1"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"user","content":"a","weight":1}]}"#,
    "invalid_weight: `messages[0].weight` is set, which only a message of the assistant"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"assistant","content":"a","mood":1}]}"#,
    "message_unrecognized_key: `messages[0]` has the field `mood`"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"assistant","content":"a","function_call":{"name":"f"}}]}"#,
    "which nothing reads: write it as `tool_calls`"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"user","content":"a","tool_calls":[{}]}]}"#,
    "message_unrecognized_key: `messages[0]` has the field `tool_calls`, which a message of user cannot have"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"assistant","tool_calls":[]}]}"#,
    "message_missing_key: `messages[0]` has no `content`"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"assistant","tool_calls":[{"name":"f"}]}]}"#,
    "invalid_tool_calls: `messages[0].tool_calls[0]` has no object `function`"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"x"}}]}]}"#,
    "invalid_tool_calls: `messages[0].tool_calls[0].function.arguments` is text and no JSON (expected value), expected an object"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"[1]"}}]}]}"#,
    "invalid_tool_calls: `messages[0].tool_calls[0].function.arguments` is text that holds a list, expected an object"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":null}}]}]}"#,
    "invalid_tool_calls: `messages[0].tool_calls[0].function.arguments` is absent, expected an object"
)]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"assistant","content":"a"}],"tools":[{"name":"f"}]}"#,
    "invalid_tools: `tools[0]` is no description of a function"
)]
#[case(
    Format::ShareGPT,
    r#"{"conversations":[{"from":"human"}]}"#,
    "message_missing_key: `conversations[0]` has no `value`"
)]
#[case(
    Format::ShareGPT,
    r#"{"conversations":[{"from":"bing","value":"{}"}]}"#,
    "unrecognized_role: `conversations[0].from` is `bing`, expected system, human"
)]
#[case(
    Format::ShareGPT,
    r#"{"conversations":[{"from":"human","value":"a"}]}"#,
    "example_missing_assistant_message: `conversations`"
)]
#[case(
    Format::ShareGPT,
    r#"{"conversations":[]}"#,
    "missing_messages_list: `conversations` is empty"
)]
fn a_malformed_row_is_named_with_file_line_class_and_cure(
    #[case] format: Format,
    #[case] row: &str,
    #[case] expected: &str,
) {
    let faults = read(format, format!("\n{row}\n")).unwrap_err();
    let message = faults.to_string();
    assert!(message.starts_with("train.jsonl line 2: "), "{message}");
    assert!(message.contains(expected), "{message}");
}

#[rstest]
#[case(
    "a.json",
    "[\n{\"text\":\"a\"},\n{\"text\":\n x}]",
    "a.json line 4: invalid_json: not a JSON array of objects: expected value"
)]
#[case(
    "a.json",
    "[\n{\"text\":\"a\"}\n{\"text\":\"b\"}]",
    "a.json line 3: invalid_json: expected `,` or `]` after a row"
)]
#[case(
    "a.json",
    "[{\"text\":\"a\"},\n",
    "a.json line 2: invalid_json: the array does not end: is the file cut off?"
)]
#[case(
    "a.json",
    "[{\"text\":\"a\"}]\n{}",
    "a.json line 2: invalid_json: something follows the array"
)]
#[case(
    "a.json",
    "[{\"text\":\"a\"},\n3]",
    "a.json line 2: data_type: the row is a number"
)]
#[case(
    "a.csv",
    "text,text\na,b\n",
    "a.csv line 1: invalid_csv: the header names `text` twice"
)]
#[case(
    "a.csv",
    "prompt;completion\na;b\n",
    "a.csv line 1: invalid_csv: the header is `prompt;completion`, expected commas"
)]
#[case(
    "a.csv",
    "text\n\"a\"\nb,c\n",
    "a.csv line 3: invalid_csv: the row has 2 fields, expected 1"
)]
#[case(
    "a.csv",
    "question\na\n",
    "a.csv line 2: unrecognized_format: the row has the columns `question`"
)]
fn a_malformed_file_is_named_with_the_line(
    #[case] name: &str,
    #[case] text: &str,
    #[case] expected: &str,
) {
    let message = read_file(name, Format::Auto, text).unwrap_err().to_string();
    assert!(message.starts_with(expected), "{message}");
}

#[rstest]
#[case(
    "a.jsonl",
    b"{\"text\":\"a\"}\n{\"text\":\"\xff\"}\n",
    "a.jsonl line 2: not_utf8: it is not UTF-8 at byte 10: save the file as UTF-8"
)]
#[case("a.json", b"[\n{\"text\":\"\xff\"}]\n", "a.json line 2: not_utf8: ")]
#[case(
    "a.csv",
    b"text\na\n\xff\n",
    "a.csv line 3: not_utf8: it is not UTF-8 at byte 1"
)]
#[case("a.txt", b"a\xff", "a.txt line 1: not_utf8: it is not UTF-8 at byte 2")]
#[case(
    "a.jsonl",
    b"\xff\xfe{\0}\0",
    "a.jsonl line 1: not_utf8: the file is UTF-16: save it as UTF-8"
)]
fn bytes_that_are_not_utf8_are_a_fault_of_their_line(
    #[case] name: &str,
    #[case] bytes: &[u8],
    #[case] expected: &str,
) {
    let message = read_file(name, Format::Auto, bytes)
        .unwrap_err()
        .to_string();
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn two_formats_in_one_data_set_are_refused_with_the_row_that_set_the_format() {
    let text = format!("{MESSAGES}\n{{\"prompt\":\"p\",\"completion\":\"c\"}}\n");
    assert_eq!(
        read(Format::Auto, text).unwrap_err().to_string(),
        "train.jsonl line 2: mixed_formats: the row is PromptCompletion, expected Messages, as train.jsonl line 1 has it: keep \
         rows of one format in a data set"
    );
    let mut reader = RowReader::new(Format::Auto);
    reader.read("train.jsonl", MESSAGES.as_bytes()).unwrap();
    reader.read("README.md", &b"# About"[..]).unwrap();
    let message = reader.finish().unwrap_err().to_string();
    assert!(
        message.starts_with("README.md line 1: mixed_formats: the row is Text, expected Messages"),
        "{message}"
    );
}

#[test]
fn the_first_twenty_faults_are_shown_and_all_are_counted_by_class() {
    let rows = (1..=23).map(|number| format!("{{\"c{number}\":1}}\n"));
    let text = rows.collect::<String>() + "x\n";
    let faults = read(Format::Text, text).unwrap_err();
    assert_eq!((faults.first.len(), faults.count), (20, 24));
    assert_eq!(faults.classes[&FaultClass::MissingColumn], 23);
    let message = faults.to_string();
    assert!(
        message.starts_with(
            "24 rows are malformed (missing_column 23, invalid_json 1): train.jsonl line 1: missing_column: "
        ),
        "{message}"
    );
    let end = "the row has the columns `c20`\nand 4 more";
    assert!(message.ends_with(end), "{message}");
}

#[test]
fn a_fault_that_many_rows_have_in_the_same_words_is_said_once_with_their_number() {
    let text = "{\"text\":1}\n".repeat(23) + "x\n{\"text\":1}\n[]\n[]\n";
    let faults = read(Format::Text, text).unwrap_err();
    assert_eq!((faults.first.len(), faults.count), (3, 27));
    let message = faults.to_string();
    let start = "27 rows are malformed (data_type 26, invalid_json 1): train.jsonl line 1: data_type: `text` is a number, expected \
                 text (23 more like it, lines 2, 3, 4, …)\ntrain.jsonl line 24: invalid_json: ";
    assert!(message.starts_with(start), "{message}");
    assert!(message.ends_with("(1 more like it, line 27)"), "{message}");
}

#[rstest]
#[case::found_out(Format::Auto, "unrecognized_format")]
#[case::set(Format::PromptCompletion, "missing_column")]
fn a_column_that_the_manifest_misnames_is_said_once_with_what_the_rows_have(
    #[case] format: Format,
    #[case] class: &str,
) {
    let columns = Columns {
        prompt: Some("frage".into()),
        completion: Some("answer".into()),
        ..Columns::default()
    };
    let text = "question,answer\n".to_owned() + &"q,a\n".repeat(30);
    let mut reader = RowReader::new(format).with_columns(&columns);
    reader.read("faq.csv", text.as_bytes()).unwrap();
    assert_eq!(
        reader.finish().unwrap_err().to_string(),
        format!(
            "30 rows are malformed ({class} 30): faq.csv line 2: {class}: `dataset.columns.prompt` is `frage`, which the row does \
             not have; the row has the columns `question`, `answer`: set it to one of these (29 more like it, lines 3, 4, 5, …)"
        )
    );
}

#[test]
fn a_line_beyond_the_bound_is_a_fault_and_the_next_one_is_read() {
    let long = io::repeat(b'x').take(MAX_LINE as u64 + 1);
    let source = long.chain(&b"\n{\"text\":3}\n"[..]);
    let mut reader = RowReader::new(Format::Text);
    reader
        .read("train.jsonl", io::BufReader::new(source))
        .unwrap();
    let faults = reader.finish().unwrap_err();
    assert_eq!(faults.count, 2);
    assert_eq!(faults.first[0].class, FaultClass::TooLong);
    assert!(
        faults.first[0]
            .message
            .contains("longer than 100000000 bytes")
    );
    assert_eq!(faults.first[1].line, 2);
}

#[test]
fn equal_content_has_one_hash_however_it_is_written() {
    let rows = read(
        Format::Auto,
        "{\"prompt\":\"a\",\"completion\":\"bc\"}\n{ \"completion\": \"\\u0062c\", \"prompt\": \"a\" }\n{\"prompt\":\"ab\",\"completion\":\"c\"}",
    )
    .unwrap()
    .rows;
    let hashes: Vec<_> = rows.iter().map(|row| row.content.hash()).collect();
    assert_eq!(hashes[0], hashes[1]);
    assert_ne!(hashes[0], hashes[2], "parts must not run together");
    let hash = |row: &str| RowContent::Messages(conversation(row)).hash();
    let weighted = MESSAGES.replace(r#""content":"a""#, r#""content":"a","weight":0"#);
    assert_ne!(hash(MESSAGES), hash(&weighted), "another thing is learnt");
    let call = |arguments| hash(&CALL.replace("ARGUMENTS", arguments));
    assert_ne!(call("{}"), call(r#"{"a":1}"#));
}

#[rstest]
#[case(r#"{"prompt":"p","completion":" \n"}"#, true)]
#[case(r#"{"prompt":"","completion":"c"}"#, false)]
#[case(
    r#"{"messages":[{"role":"user","content":""},{"role":"assistant","content":"a"}]}"#,
    false
)]
#[case(
    r#"{"messages":[{"role":"assistant","content":""},{"role":"assistant","content":"a"}]}"#,
    true
)]
#[case(r#"{"messages":[{"role":"assistant","content":"","weight":0},{"role":"assistant","content":"a"}]}"#, false)]
fn empty_answers_are_told(#[case] row: &str, #[case] empty: bool) {
    assert_eq!(
        only(read(Format::Auto, row).unwrap()).has_empty_completion(),
        empty
    );
}

#[test]
fn content_in_parts_of_text_is_their_text_and_the_parts() {
    let conversation = conversation(
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a "},{"type":"text","text":"b","image":null}]},{"role":"assistant","content":"c"}]}"#,
    );
    let [user, assistant] = conversation.messages.as_slice() else {
        panic!("{conversation:?}");
    };
    assert_eq!(user.content.as_deref(), Some("a b"));
    assert_eq!(user.parts, ["a ", "b"]);
    assert!(assistant.parts.is_empty());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for name in ["a.jsonl", "a.json", "a.csv", "a.txt"] {
            let _ = read_file(name, Format::Auto, &bytes);
        }
    }

    #[test]
    fn arbitrary_json_never_panics(
        key in "messages|prompt|completion|text|conversations|tools|x",
        inner in r#"(\{"(role|content|from|value|weight|tool_calls)":("a"|1|null|\[\])\}|"[a-z]*"|\[|\]|,|[0-9]){0,6}"#,
    ) {
        let _ = read(Format::Auto, format!("{{\"{key}\":[{inner}]}}"));
        let _ = read(Format::Messages, format!("{{\"{key}\":{inner}}}"));
        let _ = read_file("a.json", Format::Auto, format!("[{inner}"));
    }
}
