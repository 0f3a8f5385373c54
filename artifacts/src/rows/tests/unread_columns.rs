//! Columns beside those of a format: refused where they change what is said, else told of by name.

use rstest::rstest;

use super::*;

/// A row of each format, without the closing brace.
const ROWS: [(&str, Format); 6] = [
    (
        r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]"#,
        Format::Messages,
    ),
    (
        r#"{"prompt":"p","completion":"c""#,
        Format::PromptCompletion,
    ),
    (r#"{"text":"t""#, Format::Text),
    (r#"{"instruction":"i","output":"o""#, Format::Alpaca),
    (
        r#"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]"#,
        Format::ShareGPT,
    ),
    (
        r#"{"prompt":"p","chosen":"c","rejected":"r""#,
        Format::Preference,
    ),
];

#[test]
fn a_column_that_changes_what_is_said_is_refused_by_name_in_every_format() {
    let values = [
        ("system", r#""s""#),
        ("system_prompt", r#""s""#),
        ("history", r#"[["q","a"]]"#),
        ("tools", r#"[{"type":"function","function":{"name":"f"}}]"#),
        ("functions", r#"[{"name":"f"}]"#),
        ("function_call", r#"{"name":"f"}"#),
        ("documents", r#"["d"]"#),
        ("chat_template_kwargs", r#"{"enable_thinking":false}"#),
        ("images", r#"["a.png"]"#),
        ("audio", r#"{"path":"a.wav"}"#),
    ];
    for (row, format) in ROWS {
        for (name, value) in values {
            let form = RowFormat::wanted(format).unwrap();
            let row = format!(r#"{row},"{name}":{value}}}"#);
            for format in [Format::Auto, format] {
                let found = read(format, &row);
                if form.reads(name, &Columns::default()) {
                    assert_eq!(found.unwrap().unread, Unread::default(), "{row}");
                    continue;
                }
                let message = found.unwrap_err().to_string();
                let expected = format!(
                    "unread_column: the row has the column `{name}`, which nothing reads in format {form}: "
                );
                assert!(message.contains(&expected), "{message}");
            }
        }
    }
}

#[test]
fn other_columns_are_told_of_by_name_with_the_rows_that_have_them() {
    for (row, format) in ROWS {
        let row =
            format!("{row},\"id\":7,\"source\":\"desk\",\"metadata\":{{}},\"score\":null}}\n");
        let last = row.replace(r#","id":7"#, "");
        let rows = read(format, format!("{row}{row}{last}")).unwrap();
        assert_eq!(
            rows.unread.warning().unwrap(),
            "nothing reads the columns `id`, `source`, which up to 3 rows have"
        );
        let one = read(format, row.replace(r#""source":"desk","#, "")).unwrap();
        assert_eq!(
            one.unread.warning().unwrap(),
            "nothing reads the column `id`, which up to 1 rows have"
        );
    }
    assert_eq!(read(Format::Auto, MESSAGES).unwrap().unread.warning(), None);
}

#[test]
fn columns_of_a_table_are_told_of_where_a_row_fills_them() {
    let table = ",prompt,completion,note,empty\n0,p,c,,\n1,q,d,x,\n";
    let rows = read_file("a.csv", Format::Auto, table).unwrap();
    assert_eq!(
        rows.unread.warning().unwrap(),
        "nothing reads the columns ``, `note`, which up to 2 rows have"
    );
    let table = "prompt,completion,system\np,c,\nq,d,s\n";
    let message = read_file("a.csv", Format::Auto, table)
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("a.csv line 3: unread_column: the row has the column `system`"),
        "{message}"
    );
}

#[test]
fn a_column_that_another_one_stands_for_is_unread() {
    let columns = Columns {
        prompt: Some("question".into()),
        completion: Some("answer".into()),
        ..Columns::default()
    };
    let mut reader = RowReader::new(Format::Auto).with_columns(&columns);
    let row = r#"{"question":"q","answer":"a","prompt":"p"}"#;
    reader.read("a.jsonl", row.as_bytes()).unwrap();
    let rows = reader.finish().unwrap();
    assert_eq!(
        rows.unread.warning().unwrap(),
        "nothing reads the column `prompt`, which up to 1 rows have"
    );
}

#[test]
fn of_very_many_names_the_first_are_kept() {
    let row = |name: usize| format!("{{\"text\":\"t\",\"{name}\":1}}\n");
    let rows: String = (0..1200).map(row).collect();
    let warning = read(Format::Text, rows).unwrap().unread.warning().unwrap();
    assert!(
        warning.ends_with(", … and others, which up to 1 rows have"),
        "{warning}"
    );
}

#[rstest]
#[case(
    Format::Messages,
    r#"{"messages":[{"role":"assistant","content":"a"}],"system":"s"}"#,
    "write it as a message of the role system into `messages`"
)]
#[case(
    Format::PromptCompletion,
    r#"{"prompt":"p","completion":"c","tools":[1]}"#,
    "write the row as `messages` and `tools`, or remove it"
)]
#[case(
    Format::Text,
    r#"{"text":"t","images":["a"]}"#,
    "models are trained on text alone, or remove it"
)]
fn the_refusal_says_what_to_do(#[case] format: Format, #[case] row: &str, #[case] cure: &str) {
    let message = read(format, row).unwrap_err().to_string();
    assert!(message.contains(cure), "{message}");
}
