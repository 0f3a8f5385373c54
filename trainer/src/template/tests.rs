//! Templates behave as in transformers. Whole conversations are compared in `tests/chat_parity.rs`.

use super::*;

fn message(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

fn render(source: &str, messages: &[Message]) -> Result<String, Error> {
    let tokens = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned())]);
    ChatTemplate::new(source, &tokens)?.render(messages, &[], false)
}

#[test]
fn a_template_that_refuses_a_conversation_says_so_in_its_own_words() {
    let source = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}ok";
    let error = render(source, &[message("system", "x")]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the chat template fails: System role not supported"),
        "{error}"
    );
    assert_eq!(render(source, &[message("user", "x")]).unwrap(), "ok");
}

#[test]
fn what_is_iterable_is_what_python_iterates_over() {
    let source =
        "{% for value in [none, 'a', [], {}, 1, missing] %}{{ value is iterable }} {% endfor %}";
    assert_eq!(
        render(source, &[]).unwrap(),
        "False True True True False True "
    );
}

/// The expected texts are those of Jinja 3.1.
#[test]
fn values_are_printed_as_python_prints_them() {
    for (source, expected) in [
        ("{{ true }} {{ none }} {{ missing }}|", "True None |"),
        (
            "{{ 1 }} {{ 2.0 }} {{ 1e16 }} {{ 1.5 | string }}",
            "1 2.0 1e+16 1.5",
        ),
        (
            "{{ [1, 'a', {'b': false, 'c': [none]}] }}",
            "[1, 'a', {'b': False, 'c': [None]}]",
        ),
        (
            r#"{{ ["it's", 'a "b"', 'both \' and "', 'x\ny', 'ü'] }}"#,
            r#"["it's", 'a "b"', 'both \' and "', 'x\ny', 'ü']"#,
        ),
        ("{{ {'a': true} | string }}", "{'a': True}"),
        ("{{ 'plain' }}", "plain"),
    ] {
        assert_eq!(render(source, &[]).unwrap(), expected, "{source}");
    }
}

#[test]
fn a_broken_template_is_named_with_its_line() {
    let error = render("a\n{% if %}", &[]).unwrap_err().to_string();
    assert!(error.contains("cannot be parsed"), "{error}");
    assert!(error.contains("line 2"), "{error}");
}

#[test]
fn blocks_are_trimmed_and_nothing_is_escaped() {
    let source = "{{ bos_token }}\n{% for m in messages %}\n  {% if true %}\n<{{ m.content }}>\n  {% endif %}\n{% endfor %}\n";
    assert_eq!(
        render(source, &[message("user", "a & \"b\"")]).unwrap(),
        "<s>\n<a & \"b\">\n"
    );
}

#[test]
fn json_is_written_as_python_writes_it() {
    let source = "{{ {'z': [1, 2.0, none, true], 'a': 'ü<'} | tojson }}";
    assert_eq!(
        render(source, &[]).unwrap(),
        "{\"z\": [1, 2.0, null, true], \"a\": \"ü<\"}"
    );
    assert_eq!(
        render("{{ [1] | tojson(indent=2) }}", &[]).unwrap(),
        "[\n  1\n]"
    );
    assert_eq!(
        render("{{ {'a': 1e16, 'b': []} | tojson(indent=1) }}", &[]).unwrap(),
        "{\n \"a\": 1e+16,\n \"b\": []\n}"
    );
    assert_eq!(
        render(
            "{{ [1e16, 1e-5, 0.0001, 123456789.5, -1e100, {}, []] | tojson }}",
            &[]
        )
        .unwrap(),
        "[1e+16, 1e-05, 0.0001, 123456789.5, -1e+100, {}, []]"
    );
}

#[test]
fn the_time_is_there_for_templates_that_print_it() {
    let year = render("{{ strftime_now('%Y') }}", &[]).unwrap();
    assert!(year.parse::<u32>().unwrap() > 2025, "{year}");
    assert!(render("{{ strftime_now('%!') }}", &[]).is_err());
    let template = ChatTemplate::new("{{ strftime_now('%-d %b %Y') }}", &BTreeMap::new()).unwrap();
    let day = Time::Day(jiff::civil::date(2026, 3, 4));
    let pinned = template.render_marked(&[], &[], false, day).unwrap();
    assert_eq!(pinned.text, "4 Mar 2026");
}

#[test]
fn generation_tags_mark_spans_and_keep_what_they_say_of_white_space() {
    let source = "a \n{%- generation -%} \n b{% endgeneration %}\nc";
    let template = ChatTemplate::new(source, &BTreeMap::new()).unwrap();
    assert!(template.is_marked());
    let marked = template
        .render_marked(&[], &[], false, Time::Clock)
        .unwrap();
    assert_eq!(marked.text, "abc");
    assert_eq!(marked.spans, vec![1..2; 1]);
}

#[test]
fn a_message_cannot_forge_a_mark() {
    let error = render("{{ messages[0].content }}", &[message("user", "\u{fdd0}")]).unwrap_err();
    assert!(matches!(error, Error::Noncharacter));
}

#[test]
fn a_template_that_never_ends_is_stopped() {
    let source = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    assert!(render(source, &[]).is_err());
}
