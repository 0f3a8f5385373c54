//! The fields of chats alone, with those of messages and tools.

use super::field::{Field, Table, acted_on, harmless, refused, unless};
use super::kind::{COUNT, Kind};

const TEMPLATE: &str = "conversations go through the model's own template; or write the prompt yourself and use `/v1/completions`";
const TEXT_ONLY: &str = "text only";
const OLD_CALLS: &str = "use `tools`, `tool_choice` and `tool_calls`";

pub(super) static FIELDS: &[Field] = &[
    acted_on("messages", "the conversation; see below").of(&MESSAGE).is(Kind::Objects),
    acted_on("max_completion_tokens", "the most tokens of the answer; goes before `max_tokens`. Default: what the context leaves").is(COUNT),
    acted_on("top_logprobs", "with `logprobs: true`: so many alternatives for each token, at most 20").is(COUNT),
    acted_on("tools", "descriptions of functions, as the model's template prints them. A template that prints none is a 400").of(&TOOL).is(Kind::Objects),
    unless("tool_choice", &["\"auto\"", "\"none\""], "a call cannot be forced. Default `auto`; with `none` the model is not told of the tools"),
    acted_on("parallel_tool_calls", "`false`: of several calls only the first is given").is(Kind::Boolean),
    acted_on("add_generation_prompt", "`false`: the prompt does not end where the assistant's answer begins").is(Kind::Boolean),
    acted_on("continue_final_message", "`true`: the answer goes on with the last message, which is the assistant's").is(Kind::Boolean),
    unless("include_reasoning", &["true"], "what the model thinks is part of its answer's text"),
    unless("echo", &["false"], "use `/v1/completions`"),
    unless("add_special_tokens", &["false"], "the template writes the special tokens"),
    unless("modalities", &["[\"text\"]"], TEXT_ONLY),
    unless("verbosity", &["\"medium\""], "ask in words"),
    unless("documents", &["[]"], TEMPLATE),
    unless("chat_template_kwargs", &["{}"], TEMPLATE),
    refused("chat_template", TEMPLATE),
    refused("reasoning_effort", "ask in words"),
    refused("thinking_token_budget", "use `max_completion_tokens`"),
    unless("functions", &["[]"], OLD_CALLS),
    unless("function_call", &["\"auto\"", "\"none\""], OLD_CALLS),
    refused("audio", TEXT_ONLY),
    refused("media_io_kwargs", TEXT_ONLY),
    refused("web_search_options", "nothing is searched"),
];

static MESSAGE: Table = Table::new(
    "`messages`",
    &[&[
        acted_on("role", "`system`, `developer`, `user`, `assistant`, `tool`, or what else the model's template prints").is(Kind::Text).required(),
        acted_on("content", "a text, or parts of which all are text. A message of the assistant with `tool_calls` may lack it").of(&PART).is(Kind::TextOrObjects),
        acted_on("name", "who speaks, or which function answers; the template sees it").is(Kind::Text),
        acted_on("tool_calls", "of the assistant: the calls that it made; see below").of(&CALL).is(Kind::Objects),
        acted_on("tool_call_id", "of the role `tool`: which call is answered").is(Kind::Text),
        acted_on("reasoning_content", "of the assistant: what it thought; the template sees it").is(Kind::Text),
        acted_on("reasoning", "the same by its other name").is(Kind::Text),
        unless("refusal", &["\"\""], "say it as `content`"),
        unless("annotations", &["[]"], "nothing is searched"),
        refused("function_call", OLD_CALLS),
        refused("audio", TEXT_ONLY),
    ]],
)
.mistaken(&[("text", "content"), ("value", "content"), ("from", "role")]);

static PART: Table = Table::new(
    "a part of `content`",
    &[&[
        acted_on("type", "`text`").is(Kind::Text).required(),
        acted_on("text", "what is said").is(Kind::Text),
        refused("image_url", TEXT_ONLY),
        refused("input_audio", TEXT_ONLY),
        refused("audio_url", TEXT_ONLY),
        refused("video_url", TEXT_ONLY),
        refused("file", TEXT_ONLY),
        refused("refusal", "say it as `text`"),
    ]],
);

static CALL: Table = Table::new(
    "`tool_calls`",
    &[&[
        acted_on("id", "the call's name, which `tool_call_id` repeats").is(Kind::Text),
        unless(
            "type",
            &["\"function\""],
            "functions are what can be called",
        ),
        acted_on("function", "what was called")
            .of(&CALLED)
            .required(),
        harmless("index", "streams have it"),
    ]],
);

static CALLED: Table = Table::new(
    "`function` of a call",
    &[&[
        acted_on("name", "the function's name")
            .is(Kind::Text)
            .required(),
        acted_on("arguments", "an object as JSON in a text, or the object"),
    ]],
);

static TOOL: Table = Table::new(
    "`tools`",
    &[&[
        unless(
            "type",
            &["\"function\""],
            "functions are what can be called",
        ),
        acted_on("function", "its description").of(&FUNCTION),
    ]],
);

static FUNCTION: Table = Table::new(
    "`function` of a tool",
    &[&[
        acted_on("name", "what it is called by"),
        acted_on("description", "what it does"),
        acted_on(
            "parameters",
            "a JSON schema of its arguments, which the template sees as it is",
        ),
        acted_on("return", "what it returns; the template sees it"),
        unless(
            "strict",
            &["false"],
            "arguments are not held to the schema; check them",
        ),
    ]],
);
