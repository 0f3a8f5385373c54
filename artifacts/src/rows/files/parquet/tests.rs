//! What pyarrow does not write: older forms of lists, numbers of all kinds, and files made to contradict themselves.

use std::sync::Arc;

use parquet::basic::{Compression, Encoding};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type,
};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use rstest::rstest;

use super::*;
use crate::rows::{Format, RowContent, RowReader};

/// Writes one row group.
fn file(schema: &str, write: impl FnOnce(&mut SerializedRowGroupWriter<'_, Vec<u8>>)) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_encoding(Encoding::PLAIN)
        .build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    write(&mut group);
    group.close().unwrap();
    writer.into_inner().unwrap()
}

/// Writes the next column: values with their levels.
fn put<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: &[T::T],
    definitions: &[i16],
    repetitions: &[i16],
) {
    let levels = |levels: &'static [i16]| (!levels.is_empty()).then_some(levels);
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<T>()
        .write_batch(
            values,
            levels(definitions.to_vec().leak()),
            levels(repetitions.to_vec().leak()),
        )
        .unwrap();
    column.close().unwrap();
}

fn texts(texts: &[&str]) -> Vec<ByteArray> {
    texts.iter().map(|text| ByteArray::from(*text)).collect()
}

/// Each row as JSON, or the class and message of its fault, by number.
fn rows(bytes: &[u8]) -> Vec<(usize, String)> {
    let mut rows = Vec::new();
    read(
        Bytes::copy_from_slice(bytes),
        &|name| name != "passed",
        &mut |row, found| {
            let shown = match found {
                Ok(Found::Record(columns)) => Json::Object(columns).to_text(),
                Ok(Found::Document(text)) => text,
                Err(problem) => format!("{}: {}", problem.class, problem.message),
            };
            rows.push((row, shown));
        },
    );
    rows
}

#[track_caller]
fn fault(bytes: &[u8], row: usize, expected: &str) {
    let rows = rows(bytes);
    let (number, message) = rows.last().unwrap();
    assert!(
        *number == row && message.contains(expected),
        "{number}: {message}"
    );
}

#[rstest]
#[case::three_levels("optional group t (LIST) { repeated group list { optional binary element (UTF8); } }", &[3, 2, 3, 1, 0], r#"["a",null,"b"]"#)]
#[case::an_array("optional group t (LIST) { repeated binary array (UTF8); }", &[2, 2, 2, 1, 0], r#"["a","c","b"]"#)]
#[case::no_list_around_it("repeated binary t (UTF8);", &[1, 1, 1, 0, 0], r#"["a","c","b"]"#)]
#[case::an_older_element("optional group t (LIST) { repeated group array { optional binary v (UTF8); } }", &[3, 2, 3, 1, 0], r#"[{"v":"a"},{},{"v":"b"}]"#)]
fn every_form_of_lists_is_read(
    #[case] field: &str,
    #[case] definitions: &[i16],
    #[case] expected: &str,
) {
    let full = *definitions.iter().max().unwrap();
    let all = ["a", "c", "b"];
    let values: Vec<&str> = all
        .into_iter()
        .zip(definitions)
        .filter(|(_, level)| **level == full)
        .map(|(text, _)| text)
        .collect();
    let bytes = file(&format!("message m {{ {field} }}"), |group| {
        put::<ByteArrayType>(group, &texts(&values), definitions, &[0, 1, 1, 0, 0]);
    });
    let rows = rows(&bytes);
    assert_eq!(rows[0].1, format!(r#"{{"t":{expected}}}"#));
    assert_eq!(rows[1].1, r#"{"t":[]}"#);
    let third = if definitions[4] < definitions[3] {
        "null"
    } else {
        "[]"
    };
    assert_eq!(rows[2].1, format!(r#"{{"t":{third}}}"#));
}

#[test]
fn numbers_are_those_of_json_and_what_json_has_no_form_for_is_a_fault_of_its_row() {
    let schema = "message m { required boolean b; required int32 i; required int32 u (UINT_32); required int64 w (UINT_64);
        required float f; required double d; optional binary raw; optional int64 t (TIMESTAMP(NANOS,true));
        optional int32 passed (DATE); optional binary j (JSON); }";
    let bytes = file(schema, |group| {
        put::<BoolType>(group, &[true, false], &[], &[]);
        put::<Int32Type>(group, &[-1, 7], &[], &[]);
        put::<Int32Type>(group, &[-1, 7], &[], &[]);
        put::<Int64Type>(group, &[-1, 7], &[], &[]);
        put::<FloatType>(group, &[0.5, f32::NAN], &[], &[]);
        put::<DoubleType>(group, &[1e300, 0.1], &[], &[]);
        put::<ByteArrayType>(group, &texts(&["x"]), &[0, 1], &[]);
        put::<Int64Type>(group, &[1], &[0, 1], &[]);
        put::<Int32Type>(group, &[1, 2], &[1, 1], &[]);
        put::<ByteArrayType>(group, &texts(&["[1]"]), &[1, 0], &[]);
    });
    let rows = rows(&bytes);
    assert_eq!(
        rows[0].1,
        r#"{"b":true,"i":-1,"u":4294967295,"w":18446744073709551615,"f":0.5,"d":1e+300,"raw":null,"t":null,"passed":null,"j":"[1]"}"#
    );
    assert_eq!(rows.len(), 2);
    assert!(
        rows[1]
            .1
            .starts_with("data_type: column `raw`: it holds bytes, expected text"),
        "{}",
        rows[1].1
    );
}

#[test]
fn text_that_is_not_utf8_is_a_fault_of_its_row_and_the_next_one_is_read() {
    let bytes = file("message m { required binary t (UTF8); }", |group| {
        let values = [b"a".to_vec(), vec![b'x', 0xff], b"b".to_vec()];
        put::<ByteArrayType>(group, &values.map(ByteArray::from), &[], &[]);
    });
    let rows = rows(&bytes);
    assert!(
        rows[1]
            .1
            .starts_with("not_utf8: column `t`: it is not UTF-8 at byte 2"),
        "{}",
        rows[1].1
    );
    assert_eq!(rows[2], (3, r#"{"t":"b"}"#.to_owned()));
}

#[rstest]
#[case::a_map(
    "optional group t (MAP) { repeated group key_value { required binary key (UTF8); optional binary value (UTF8); } }",
    2,
    "column `t` is a map"
)]
#[case::twice(
    "optional binary t (UTF8); optional binary t (UTF8);",
    2,
    "it has the column `t` twice"
)]
#[case::twice_within(
    "optional group t { optional binary a (UTF8); optional binary a (UTF8); }",
    2,
    "column `t` has `a` twice"
)]
fn columns_that_are_no_rows_of_data_are_refused(
    #[case] fields: &str,
    #[case] leaves: usize,
    #[case] expected: &str,
) {
    let bytes = file(&format!("message m {{ {fields} }}"), |group| {
        for _ in 0..leaves {
            let levels: &[i16] = if fields.contains("MAP") { &[0] } else { &[] };
            put::<ByteArrayType>(group, &[], &[0], levels);
        }
    });
    fault(&bytes, 0, expected);
}

/// A file whose columns have numbers of their own: two leaves of a list, written one after the other.
fn list_of_pairs(second_definitions: &[i16], second_repetitions: &[i16]) -> Vec<u8> {
    let schema =
        "message m { optional group t (LIST) { repeated group list { optional group element {
        optional binary a (UTF8); optional binary b (UTF8); } } } }";
    let full = second_definitions
        .iter()
        .filter(|level| **level == 4)
        .count();
    file(schema, |group| {
        put::<ByteArrayType>(group, &texts(&["a", "b"]), &[4, 4, 0], &[0, 1, 0]);
        put::<ByteArrayType>(
            group,
            &texts(&vec!["c"; full]),
            second_definitions,
            second_repetitions,
        );
    })
}

#[rstest]
#[case::other_lengths(&[4, 4], &[0, 0], 1)]
#[case::other_nulls(&[4, 4, 2], &[0, 1, 0], 2)]
#[case::an_element_that_is_not_there(&[4, 2, 0], &[0, 1, 0], 1)]
fn columns_that_contradict_each_other_are_damage(
    #[case] definitions: &[i16],
    #[case] repetitions: &[i16],
    #[case] row: usize,
) {
    assert_eq!(
        rows(&list_of_pairs(&[4, 3, 0], &[0, 1, 0]))[0].1,
        r#"{"t":[{"a":"a","b":"c"},{"a":"b"}]}"#
    );
    let bytes = list_of_pairs(definitions, repetitions);
    fault(&bytes, row, "its columns do not agree");
}

#[test]
fn a_kilobyte_that_stands_for_gigabytes_is_refused() {
    let schema = parse_message_type("message m { required binary t (UTF8); }").unwrap();
    let properties = WriterProperties::builder().build();
    let mut writer =
        SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let text = ByteArray::from("x".repeat(1000).as_str());
    let values = vec![text; 300_000];
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<ByteArrayType>()
        .write_batch(&values, None, None)
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    let bytes = writer.into_inner().unwrap();
    assert!(bytes.len() < 100_000, "{}", bytes.len());
    let mut count = 0;
    let mut last = String::new();
    read(Bytes::from(bytes), &|_| true, &mut |_, found| match found {
        Ok(_) => count += 1,
        Err(problem) => last = problem.message,
    });
    assert!(
        last.contains("more than 1000 times") || last.contains("can mean"),
        "{last}"
    );
    assert!(count < 200_000);
}

/// Three rows of Alpaca: `system` and `history` are null, then empty, then there; `none` is null everywhere.
fn alpaca(last: &str) -> Vec<u8> {
    let schema = format!(
        "message m {{ required binary instruction (UTF8); required binary output (UTF8); optional binary system (UTF8);
        optional group history (LIST) {{ repeated group list {{ optional group element (LIST) {{ repeated group list {{
        optional binary element (UTF8); }} }} }} }} optional binary none (UTF8); optional binary {last}; }}"
    );
    file(&schema, |group| {
        put::<ByteArrayType>(group, &texts(&["i", "i", "i"]), &[], &[]);
        put::<ByteArrayType>(group, &texts(&["o", "o", "o"]), &[], &[]);
        put::<ByteArrayType>(group, &texts(&["", "s"]), &[0, 1, 1], &[]);
        put::<ByteArrayType>(group, &texts(&["q", "a"]), &[0, 1, 5, 5], &[0, 0, 0, 2]);
        put::<ByteArrayType>(group, &[], &[0, 0, 0], &[]);
        put::<ByteArrayType>(group, &texts(&["x"]), &[0, 1, 0], &[]);
    })
}

#[test]
fn nulls_and_empty_values_of_columns_are_absent_and_columns_with_values_are_told_of() {
    let mut reader = RowReader::new(Format::Auto);
    reader
        .read("a.parquet", alpaca("note (UTF8)").as_slice())
        .unwrap();
    let rows = reader.finish().unwrap();
    let before: Vec<usize> = rows
        .rows
        .iter()
        .map(|row| match &row.content {
            RowContent::Alpaca { before, .. } => before.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(before, [0, 0, 3]);
    assert_eq!(
        rows.unread.warning().unwrap(),
        "nothing reads the column `note`, which up to 3 rows have"
    );
}

#[test]
fn a_column_of_pictures_is_refused_without_a_look_at_its_bytes() {
    let mut reader = RowReader::new(Format::Auto);
    reader
        .read("a.parquet", alpaca("image").as_slice())
        .unwrap();
    let message = reader.finish().unwrap_err().to_string();
    assert!(
        message.starts_with(
            "a.parquet: unread_column: the row has the column `image`, which nothing reads in format Alpaca: models are trained \
             on text alone"
        ),
        "{message}"
    );
}
