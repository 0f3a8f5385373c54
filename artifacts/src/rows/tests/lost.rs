//! What a reader could take without a word and lose: rows within a quote, one of two values of a key.

use super::*;

#[rstest]
#[case::last_field(
    "prompt,completion\na,\"b\nc,d\ne,f\ng,h\n",
    "a.csv line 2: invalid_csv: the quote of field 2 opens and is closed nowhere"
)]
#[case::first_field(
    "prompt,completion\na,b\n\"c,d\ne,f\n",
    "a.csv line 3: invalid_csv: the quote of field 1 opens and is closed nowhere"
)]
#[case::after_a_field_of_two_lines(
    "prompt,completion\n\"a\nb\",\"c\nd,e",
    "a.csv line 3: invalid_csv: the quote of field 2 opens and is closed nowhere"
)]
#[case::header(
    "prompt,\"completion\na,b\n",
    "a.csv line 1: invalid_csv: the quote of field 2 opens and is closed nowhere"
)]
#[case::nothing_after_it(
    "prompt,completion\na,\"",
    "a.csv line 2: invalid_csv: the quote of field 2 opens and is closed nowhere"
)]
#[case::doubled_at_the_end(
    "prompt,completion\na,\"b\"\"",
    "a.csv line 2: invalid_csv: the quote of field 2 opens and is closed nowhere"
)]
#[case::closed_by_the_quote_of_a_later_row(
    "prompt,completion\na,\"b\nc,\"d\"\ne,f\n",
    "a.csv line 2: invalid_csv: text follows the closing quote of field 2"
)]
fn a_quote_that_is_not_closed_is_a_fault_of_the_line_where_it_opens(
    #[case] text: &str,
    #[case] expected: &str,
) {
    let message = read_file("a.csv", Format::Auto, text)
        .unwrap_err()
        .to_string();
    assert!(message.starts_with(expected), "{message}");
    assert!(message.contains("close the quote"), "{message}");
}

#[test]
fn quotes_within_a_field_stay_its_text() {
    let text = "prompt,completion\r\n5\" pipe,\"say \"\"hi\"\", twice\n\"\r\n\"\",\"\"\"\"\r\n";
    let rows = read_file("a.csv", Format::Auto, text).unwrap();
    let contents: Vec<RowContent> = rows.rows.into_iter().map(|row| row.content).collect();
    assert_eq!(
        contents,
        [pair("5\" pipe", "say \"hi\", twice\n"), pair("", "\"")]
    );
}

#[rstest]
#[case::carriage_returns("prompt,completion\ra,b\r\rc\rd,e,f\r")]
#[case::both("prompt,completion\r\na,b\r\n\r\nc\r\nd,e,f\r\n")]
fn lines_are_counted_whatever_ends_them(#[case] text: &str) {
    let faults = read_file("a.csv", Format::Auto, text).unwrap_err();
    let lines: Vec<usize> = faults.first.iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [4, 5]);
}

#[rstest]
#[case::a_line(
    "a.jsonl",
    "{\"text\":\"z\"}\n{\"text\":\"a\",\"text\":\"b\"}",
    "a.jsonl line 2: invalid_json: the key `text` is there twice: keep one of them"
)]
#[case::an_array(
    "a.json",
    "[{\"text\":\"z\"},\n{\"text\":\"a\",\"text\":\"b\"}]",
    "a.json line 2: invalid_json: the key `text` is there twice: keep one of them"
)]
#[case::within(
    "a.jsonl",
    "\n{\"messages\":[{\"role\":\"user\",\"role\":\"assistant\",\"content\":\"a\"}]}",
    "a.jsonl line 2: invalid_json: the key `role` is there twice"
)]
#[case::a_field_of_a_table(
    "a.csv",
    "messages\n\"[{\"\"role\"\":\"\"assistant\"\",\"\"content\"\":\"\"a\"\",\"\"content\"\":\"\"b\"\"}]\"\n",
    "a.csv line 2: data_type: `messages` is JSON in which the key `content` is there twice"
)]
fn a_key_that_is_there_twice_is_a_fault_with_its_name(
    #[case] name: &str,
    #[case] text: &str,
    #[case] expected: &str,
) {
    let message = read_file(name, Format::Auto, text).unwrap_err().to_string();
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn a_byte_order_mark_between_two_joined_files_is_called_one() {
    let text = "\u{feff}{\"text\":\"a\"}\n\u{feff}{\"text\":\"b\"}\n";
    let message = read(Format::Auto, text).unwrap_err().to_string();
    let expected = "train.jsonl line 2: invalid_json: the line begins with a byte order mark";
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn elements_of_one_line_are_told_apart() {
    let faults = read_file("a.json", Format::Auto, "[1,2]").unwrap_err();
    for (fault, element) in faults.first.iter().zip(1..) {
        let expected = format!(
            "a.json line 1: data_type: the row is a number, expected a JSON object as element {element} of the array"
        );
        assert_eq!(fault.to_string(), expected);
    }
    assert_eq!(faults.count, 2);
}

#[rstest]
#[case(r#"{"text":"\ud800"}"#)]
#[case(r#"{"text":"\ud800 a"}"#)]
#[case(r#"{"text":"\udc00"}"#)]
#[case(r#"{"text":"\ud800\u0041"}"#)]
fn half_of_a_character_is_called_that(#[case] row: &str) {
    let message = read(Format::Auto, row).unwrap_err().to_string();
    assert!(
        message.contains("half of a character and stands without its other half"),
        "{message}"
    );
}
