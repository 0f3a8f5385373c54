//! The fields that both requests have.

use super::field::{Field, Table, acted_on, harmless, refused, unless};
use super::kind::{COUNT, Kind, TOKENS, WHOLE};

/// What is not decoded under constraints.
const NO_GRAMMAR: &str =
    "answers are not held to a grammar; ask for the form in words, and check it";
const NO_PENALTY: &str = "no token is made likelier or less likely than the model has it";

pub(super) static FIELDS: &[Field] = &[
    acted_on(
        "model",
        "the base's name or an adapter's; absent: the base. A name that is not served is a 404",
    ).is(Kind::Text),
    acted_on("max_tokens", "the most tokens of the answer").is(COUNT),
    acted_on(
        "temperature",
        "0 to 2, default 1; 0 takes the likeliest token",
    ).is(Kind::Number),
    acted_on(
        "top_p",
        "more than 0, at most 1 (default): only the likeliest tokens that together have this probability, among those that `top_k` leaves",
    ).is(Kind::Number),
    acted_on(
        "top_k",
        "only so many of the likeliest tokens; 0, -1 or absent: all",
    ).is(WHOLE),
    acted_on("seed", "makes the answer repeatable on one machine").is(WHOLE),
    acted_on(
        "stop",
        "a string or at most 16, which end the answer and are no part of it; special tokens such as `<|im_end|>` too",
    ).is(Kind::TextOrTexts),
    acted_on(
        "stop_token_ids",
        "at most 128 token ids that end the answer",
    ).is(TOKENS),
    acted_on(
        "include_stop_str_in_output",
        "`true`: what ended the answer by `stop` or `stop_token_ids` is part of it",
    ).is(Kind::Boolean),
    acted_on(
        "ignore_eos",
        "`true`: the model's own end tokens do not end the answer",
    ).is(Kind::Boolean),
    acted_on(
        "skip_special_tokens",
        "`false`: special tokens within the answer are part of its text",
    ).is(Kind::Boolean),
    acted_on(
        "stream",
        "`true`: the answer comes in pieces, as server-sent events",
    ).is(Kind::Boolean),
    acted_on("stream_options", "see below").of(&STREAM_OPTIONS),
    acted_on(
        "logprobs",
        "log-probabilities of the answer's tokens: in chats `true`, in completions the number of alternatives, at most 20",
    ),
    acted_on("response_format", "text only").of(&RESPONSE_FORMAT),
    harmless("user", "who asks"),
    harmless("metadata", "for a store of answers, which there is not"),
    harmless("store", "for a store of answers, which there is not"),
    harmless("service_tier", "there is one"),
    harmless("safety_identifier", "who asks"),
    harmless("prompt_cache_key", "caching changes no answer"),
    harmless("prompt_cache_retention", "caching changes no answer"),
    harmless("cache_salt", "caching changes no answer"),
    harmless(
        "priority",
        "requests are answered in the order in which they come",
    ),
    harmless("request_id", "answers have names of their own"),
    harmless(
        "prediction",
        "it makes answers faster elsewhere, not other ones",
    ),
    harmless("length_penalty", "of `use_beam_search` alone"),
    harmless("early_stopping", "of `use_beam_search` alone"),
    harmless(
        "guided_decoding_backend",
        "of the other `guided_` fields alone",
    ),
    harmless(
        "guided_whitespace_pattern",
        "of the other `guided_` fields alone",
    ),
    unless("n", &["1"], "one answer a request"),
    unless("best_of", &["1"], "one answer a request"),
    unless("use_beam_search", &["false"], "one answer a request"),
    unless("logit_bias", &["{}"], NO_PENALTY),
    unless("presence_penalty", &["0"], NO_PENALTY),
    unless("frequency_penalty", &["0"], NO_PENALTY),
    unless("repetition_penalty", &["1"], NO_PENALTY),
    unless("min_p", &["0"], "use `top_p` or `top_k`"),
    unless("min_tokens", &["0"], "use `ignore_eos` with `max_tokens`"),
    unless("bad_words", &["[]"], NO_PENALTY),
    unless("allowed_token_ids", &["[]"], NO_PENALTY),
    unless("logits_processors", &["[]"], NO_PENALTY),
    refused("guided_json", NO_GRAMMAR),
    refused("guided_regex", NO_GRAMMAR),
    refused("guided_choice", NO_GRAMMAR),
    refused("guided_grammar", NO_GRAMMAR),
    refused("structured_outputs", NO_GRAMMAR),
    refused("structural_tag", NO_GRAMMAR),
    refused(
        "truncate_prompt_tokens",
        "a prompt that is too long is refused; shorten it",
    ),
    refused(
        "truncation_side",
        "a prompt that is too long is refused; shorten it",
    ),
    refused(
        "prompt_logprobs",
        "use `echo` with `logprobs` of `/v1/completions`",
    ),
    refused("logprob_token_ids", "use `logprobs` with alternatives"),
    unless(
        "spaces_between_special_tokens",
        &["true"],
        "special tokens stand as they are",
    ),
    unless("return_token_ids", &["false"], "answers hold text"),
    unless(
        "return_tokens_as_token_ids",
        &["false"],
        "tokens stand as text in log-probabilities",
    ),
    unless("vllm_xargs", &["{}"], "of vLLM's plug-ins"),
    unless(
        "kv_transfer_params",
        &["{}"],
        "of servers that share their work",
    ),
    unless("mm_processor_kwargs", &["{}"], "text only"),
];

static STREAM_OPTIONS: Table = Table::new(
    "`stream_options`",
    &[&[
        acted_on("include_usage", "`true`: a last chunk holds the usage").is(Kind::Boolean),
        harmless("include_obfuscation", "it pads chunks elsewhere"),
        unless(
            "continuous_usage_stats",
            &["false"],
            "the usage comes in the last chunk",
        ),
    ]],
);

static RESPONSE_FORMAT: Table = Table::new(
    "`response_format`",
    &[&[
        unless("type", &["\"text\""], NO_GRAMMAR),
        refused("json_schema", NO_GRAMMAR),
        refused("schema", NO_GRAMMAR),
    ]],
);
