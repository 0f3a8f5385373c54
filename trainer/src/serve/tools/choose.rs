//! What the chat template does with tools and calls, found out by what it prints: so that a call is read in the form in which
//! the model was shown calls, and shown again as the template wants it.

use finetune_artifacts::rows::json::{Json, Object};
use finetune_artifacts::rows::{Message, TOOL_CALLS};
use finetune_dataset::template::ChatTemplate;
use finetune_dataset::tokenize::Tokenizer;

use super::{Format, ToolCallParser};

/// What stands in the call that the template is asked to print.
const FUNCTION: &str = "probe_function";
const ARGUMENT: &str = "probe_argument";
const VALUE: &str = "probe value";
/// Mistral's templates want nine letters.
const ID: &str = "probecall";

/// How calls are read and shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::serve) struct ToolCalls {
    /// The form in which answers call; `None` where it is not known, or calls are not to be read.
    pub(in crate::serve) format: Option<Format>,
    /// Whether somebody said that calls are not to be read.
    pub(in crate::serve) left_as_text: bool,
}

impl ToolCalls {
    /// What the flag says, or what the template shows.
    pub(in crate::serve) fn choose(parser: ToolCallParser, tokenizer: &Tokenizer) -> Self {
        let shown = tokenizer
            .template()
            .ok()
            .and_then(|template| shown(template, &tokenizer.special_texts()));
        let format = match parser {
            ToolCallParser::Auto => shown,
            ToolCallParser::None => None,
            ToolCallParser::Hermes => Some(Format::Hermes),
            ToolCallParser::Llama3Json => Some(Format::Llama3Json),
            ToolCallParser::Mistral => Some(Format::Mistral),
            ToolCallParser::Granite => Some(Format::Granite),
        };
        Self {
            format,
            left_as_text: parser == ToolCallParser::None,
        }
    }
}

/// The form in which the template prints a call.
fn shown(template: &ChatTemplate, special: &[String]) -> Option<Format> {
    let turn = [None, Some("")].into_iter();
    let mut turns = turn.filter_map(|content| turn_of(template, special, content));
    turns.find_map(|turn| {
        let reads = |format: &Format| {
            let parsed = format.parse(&turn, &[FUNCTION.to_owned()]);
            let wanted = Json::Object(arguments()).to_text();
            matches!(parsed.calls.as_slice(), [call] if call.name == FUNCTION && call.arguments == wanted)
        };
        Format::ALL.into_iter().find(reads)
    })
}

/// What the template prints of an assistant's turn that calls, without the special tokens that end it.
fn turn_of(template: &ChatTemplate, special: &[String], content: Option<&str>) -> Option<String> {
    let tools = [object([
        ("type", text("function")),
        (
            "function",
            object([
                ("name", text(FUNCTION)),
                ("description", text("a probe")),
                (
                    "parameters",
                    object([("type", text("object")), ("properties", object([]))]),
                ),
            ]),
        ),
    ])];
    let question = Message::new("user", "a question");
    let mut answer = Message::new("assistant", "");
    answer.content = content.map(str::to_owned);
    let arguments = Json::Object(arguments());
    let call = object([
        ("id", text(ID)),
        ("type", text("function")),
        (
            "function",
            object([("name", text(FUNCTION)), ("arguments", arguments)]),
        ),
    ]);
    answer
        .fields
        .insert(TOOL_CALLS.to_owned(), Json::List(vec![call]));
    let before = std::slice::from_ref(&question);
    let prompts = [true, false].map(|prompt| template.render(before, &tools, prompt).ok());
    let whole = template
        .render(&[question.clone(), answer], &tools, false)
        .ok()?;
    let prompt = prompts
        .into_iter()
        .flatten()
        .find(|prompt| whole.starts_with(prompt))?;
    let mut turn = &whole[prompt.len()..];
    loop {
        let shorter = turn.trim();
        let shorter = special
            .iter()
            .find_map(|token| shorter.strip_suffix(token.as_str()))
            .unwrap_or(shorter);
        if shorter == turn {
            return Some(turn.to_owned());
        }
        turn = shorter;
    }
}

fn arguments() -> Object {
    Object::from([(ARGUMENT.to_owned(), text(VALUE))])
}

fn text(text: &str) -> Json {
    Json::Text(text.to_owned())
}

fn object<const COUNT: usize>(fields: [(&str, Json); COUNT]) -> Json {
    Json::Object(
        fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use rstest::rstest;

    use super::*;

    /// A family's template out of the fixtures, its special tokens those of its files.
    fn family(name: &str) -> ChatTemplate {
        let expected =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/expected/templates.json");
        let families: serde_json::Value =
            serde_json::from_slice(&std::fs::read(expected).unwrap()).unwrap();
        let family = &families[name];
        let token = |key: &str| family[key].as_str().unwrap_or_default().to_owned();
        let special = BTreeMap::from([
            ("bos_token".to_owned(), token("bos")),
            ("eos_token".to_owned(), token("eos")),
        ]);
        ChatTemplate::new(family["plain"].as_str().unwrap(), &special).unwrap()
    }

    #[rstest]
    #[case("llama3", Some(Format::Llama3Json))]
    #[case("qwen2.5", Some(Format::Hermes))]
    #[case("qwen3", Some(Format::Hermes))]
    #[case("mistral", Some(Format::Mistral))]
    #[case("granite", Some(Format::Granite))]
    #[case("gemma", None)]
    #[case("phi3", None)]
    #[case("olmo2", None)]
    fn the_template_shows_how_its_model_calls(#[case] name: &str, #[case] format: Option<Format>) {
        let special: Vec<String> = ["<|eot_id|>", "<|im_end|>", "</s>", "<|end_of_text|>"]
            .map(str::to_owned)
            .into();
        let found = shown(&family(name), &special);
        assert_eq!(found, format);
    }

    #[test]
    fn a_template_that_adds_arguments_as_text_shows_its_form_too() {
        let source = "{% for message in messages %}{{ message.role + ': ' + (message.content or '') }}{% for call in message.tool_calls or [] %}\
                      {{ '<tool_call>{\"name\": \"' + call.function.name + '\", \"arguments\": ' + call.function.arguments + '}</tool_call>' }}\
                      {% endfor %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
        let template = ChatTemplate::new(source, &BTreeMap::new()).unwrap();
        assert_eq!(shown(&template, &[]), Some(Format::Hermes));
    }
}
