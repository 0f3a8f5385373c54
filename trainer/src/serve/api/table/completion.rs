//! The fields of completions alone.

use super::field::{Field, acted_on, refused, unless};
use super::kind::Kind;

pub(super) static FIELDS: &[Field] = &[
    acted_on(
        "prompt",
        "a text, or token ids, or a list with one of these. A text gets the start token that the model wants; token ids are used untouched",
    ).is(Kind::Prompt),
    acted_on(
        "echo",
        "`true`: the answer begins with the prompt; with `logprobs` its tokens are scored, and `max_tokens` may be 0",
    ).is(Kind::Boolean),
    acted_on(
        "add_special_tokens",
        "`false`: no start token is put before a text",
    ).is(Kind::Boolean),
    unless("suffix", &["\"\""], "text is continued, not filled in"),
    refused("prompt_embeds", "give text or token ids"),
];
