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

/// A question, and a turn that calls and has no content.
fn calling() -> Vec<Message> {
    let mut call = message("assistant", "");
    call.content = None;
    let calls =
        r#"[{"type":"function","function":{"name":"stock","arguments":{"article":"lamp"}}}]"#;
    let calls = serde_json::from_str(calls).unwrap();
    call.fields.insert(TOOL_CALLS.to_owned(), calls);
    vec![message("user", "How many?"), call]
}

#[test]
fn a_turn_without_content_is_one_that_says_nothing_though_the_template_prints_no_calls() {
    let source = "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}{% endfor %}";
    let mut messages = calling();
    let absent = render(source, &messages).unwrap();
    messages[1].content = Some(String::new());
    assert_eq!(absent, "<user>How many?<assistant>");
    assert_eq!(render(source, &messages).unwrap(), absent);
}

#[test]
fn a_template_that_fails_on_what_it_has_no_place_for_says_first_what_that_is() {
    let source =
        "{% for m in messages %}{{ m.content or raise_exception('Say something') }}{% endfor %}";
    let template = ChatTemplate::new(source, &BTreeMap::new()).unwrap();
    let tools: [Json; 1] = [serde_json::from_str(r#"{"function":{"name":"stock"}}"#).unwrap()];
    let failed = |messages: &[Message], tools: &[Json]| {
        let error = template.render(messages, tools, false).unwrap_err();
        error.to_string()
    };
    let silent = [message("user", "")];
    for (message, start) in [
        (
            failed(&calling(), &tools),
            "the chat template prints no tools and no calls, which the conversation has, and fails on it: Say something",
        ),
        (
            failed(&calling(), &[]),
            "the chat template prints no calls, which the conversation has, and fails on it: Say something",
        ),
        (
            failed(&silent, &tools),
            "the chat template prints no tools, which the conversation has, and fails on it: Say something",
        ),
        (
            failed(&silent, &[]),
            "the chat template fails: Say something",
        ),
    ] {
        assert!(message.starts_with(start), "{message}");
    }
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

/// The expected texts are those of Jinja 3.1.
#[test]
fn trim_takes_what_is_no_text_for_the_text_that_python_makes_of_it() {
    for (source, expected) in [
        ("<{{ missing | trim }}>", "<>"),
        ("<{{ {}.missing | trim }}>", "<>"),
        ("<{{ none | trim }}>", "<None>"),
        ("<{{ 1.0 | trim }}>", "<1.0>"),
        ("<{{ true | trim }}>", "<True>"),
        ("<{{ ['a'] | trim }}>", "<['a']>"),
        ("<{{ 1001 | trim('1') }}>", "<00>"),
        ("<{{ ' a\n' | trim }}>", "<a>"),
    ] {
        assert_eq!(render(source, &[]).unwrap(), expected, "{source}");
    }
}

/// The expected values are those of Python 3.
#[test]
fn where_the_start_is_beyond_the_end_nothing_is_found() {
    for (call, expected) in [
        ("find('', 3)", "3"),
        ("find('', 4)", "-1"),
        ("find('', 10)", "-1"),
        ("find('', 2, 1)", "-1"),
        ("find('', 2, -2)", "-1"),
        ("rfind('', 3)", "3"),
        ("rfind('', 4)", "-1"),
        ("index('', 3)", "3"),
        ("count('', 3)", "1"),
        ("count('', 4)", "0"),
        ("count('', 2, 1)", "0"),
        ("startswith('', 3)", "True"),
        ("startswith('', 4)", "False"),
        ("startswith(('x', ''), 4)", "False"),
        ("startswith('', 2, 1)", "False"),
        ("endswith('', 3)", "True"),
        ("endswith('', 4)", "False"),
        ("endswith('bc', 1)", "True"),
        ("endswith('bc', 2)", "False"),
    ] {
        let source = format!("{{{{ 'abc'.{call} }}}}");
        assert_eq!(render(&source, &[]).unwrap(), expected, "{call}");
    }
    for call in ["index('', 4)", "rindex('', 4)"] {
        let error = render(&format!("{{{{ 'abc'.{call} }}}}"), &[]).unwrap_err();
        assert!(error.to_string().contains("not in the text"), "{error}");
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

/// The template fails already when it is made, before any row.
fn refused(source: &str) -> Error {
    ChatTemplate::new(source, &BTreeMap::new()).unwrap_err()
}

#[test]
fn a_template_that_never_ends_is_stopped() {
    let source = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let error = refused(source);
    assert!(matches!(error, Error::Exhausted(_)), "{error}");
    assert!(error.to_string().contains("ran out of fuel"), "{error}");
}

#[test]
fn a_template_that_makes_texts_without_end_runs_out_of_fuel() {
    let grows = |how: &str| {
        format!(
            "{{%- set ns = namespace(x='aaaaaaaaaa') -%}}{{%- for i in range(60) -%}}{{%- set ns.x = {how} -%}}{{%- endfor -%}}"
        )
    };
    let long = |what: &str| format!("{{%- set x = 'a' * 1000000 -%}}{{{{ {what} }}}}");
    for source in [
        grows("ns.x ~ ns.x"),
        grows("ns.x + ns.x"),
        grows("[ns.x, ns.x] | join('')"),
        grows("''.join([ns.x, ns.x])"),
        grows("'%s%s' | format(ns.x, ns.x)"),
        grows("'{}{}'.format(ns.x, ns.x)"),
        grows("'{0}{0}'.format(ns.x)"),
        grows("ns.x.replace('a', 'aaaaaaaa')"),
        long("([x] * 100000) | join('')"),
        long("([{'a': x}] * 100000) | join('', attribute='a')"),
        long("''.join([x] * 100000)"),
        long("[x] * 100000"),
        long("([x] * 100000) | string"),
        long("([x] * 100000) | tojson"),
        long("'%s' | format([x] * 100000)"),
        long("('{0}' * 100000).format(x)"),
        "{{ 'a{:>10000000000}'.format(1) }}".to_owned(),
        "{{ '%10000000000d' | format(1) }}".to_owned(),
    ] {
        let error = refused(&source);
        assert!(matches!(error, Error::Exhausted(_)), "{source}: {error}");
    }
}

#[test]
fn a_long_conversation_has_fuel_for_a_template_that_looks_at_all_of_it_for_each_message() {
    let source = "{% for m in messages %}{{ messages[loop.index0:] | length }} {% endfor %}";
    let messages = vec![message("user", "x"); 1000];
    assert!(render(source, &messages).unwrap().starts_with("1000 999 "));
}

/// The expected texts are those of Jinja 3.1.
#[test]
fn join_and_format_print_as_python_does() {
    for (source, expected) in [
        (
            "{{ ['a', 1, 1.0, none, true] | join(', ') }}",
            "a, 1, 1.0, None, True",
        ),
        ("{{ 'abc' | join('-') }}", "a-b-c"),
        ("{{ [1, 2] | join }}", "12"),
        ("{{ [1, 2] | join(d=1) }}", "112"),
        (
            "{{ [{'a': {'b': 1}}, {'a': {'b': 2}}] | join(',', attribute='a.b') }}",
            "1,2",
        ),
        ("{{ [['x'], ['y']] | join(attribute=0) }}", "xy"),
        ("{{ '%s is %d' | format('a', 2) }}", "a is 2"),
        ("{{ '{} {:>3}'.format(1, 2) }}", "1   2"),
    ] {
        assert_eq!(render(source, &[]).unwrap(), expected, "{source}");
    }
}

#[test]
fn a_template_that_goes_deep_is_refused_or_rendered_and_never_ends_the_process() {
    let chains = [
        format!("{{{{ {}1 }}}}", "-".repeat(60_000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(15_000)),
        format!("{{{{ 1{} }}}}", "+1".repeat(30_000)),
        format!("{{{{ a{} }}}}", ".b".repeat(30_000)),
        format!("{{{{ a{} }}}}", "|e".repeat(30_000)),
        format!("{{% if a %}}{}{{% endif %}}", "{%elif b%}".repeat(6_000)),
    ];
    for source in chains {
        if let Err(error) = render(&source, &[]) {
            assert!(
                matches!(error, Error::Render(_) | Error::Syntax(_)),
                "{error}"
            );
        }
    }
    let error = refused(&"-".repeat(100_000));
    assert!(
        error.to_string().contains("expected 65536 at most"),
        "{error}"
    );
    let nested = |count: u32, then: &str| {
        format!(
            "{{%- set ns = namespace(x=[], y=[]) -%}}{{%- for i in range({count}) -%}}{{%- set ns.x = [ns.x] -%}}\
             {{%- set ns.y = [ns.y] -%}}{{%- endfor -%}}{then}"
        )
    };
    assert_eq!(render(&nested(8_000, "ok"), &[]).unwrap(), "ok");
    for then in [
        "",
        "{{ ns.x == ns.y }}",
        "{{ ns.x ~ '' }}",
        "{{ ns.x | tojson }}",
    ] {
        // To the end of its fuel or not: the process lives.
        let _ = render(&nested(8_000, then), &[]);
        let error = refused(&nested(90_000, then));
        assert!(matches!(error, Error::Exhausted(_)), "{error}");
    }
}
