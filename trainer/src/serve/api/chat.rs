//! `POST /v1/chat/completions`: the request, and log-probabilities in its form.

use finetune_artifacts::rows::json::Json;
use serde::Deserialize;
use serde_json::{Value, json};

use super::completion::finite;
use super::fields::{AnswerFields, Delivery, SamplingFields, Stop, StreamOptions};
use crate::serve::generation::TokenScore;

/// One turn.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ChatMessage {
    pub(crate) role: String,
    pub(crate) content: Option<Content>,
    pub(crate) name: Option<String>,
    pub(crate) tool_calls: Option<Vec<ToolCall>>,
    pub(crate) tool_call_id: Option<String>,
    pub(crate) reasoning_content: Option<String>,
    /// The other name of `reasoning_content`.
    pub(crate) reasoning: Option<String>,
}

/// A call that was made.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ToolCall {
    pub(crate) id: Option<String>,
    pub(crate) function: CalledFunction,
}

/// What was called.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct CalledFunction {
    pub(crate) name: String,
    /// An object, or one as JSON in a text.
    pub(crate) arguments: Option<Json>,
}

/// What was said: a text, or parts of which all must be text.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a string or a list of parts with `type` and `text`"
)]
pub(crate) enum Content {
    /// A text.
    Text(String),
    /// Parts.
    Parts(Vec<Part>),
}

/// A part of a turn.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Part {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) text: Option<String>,
}

/// The request.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ChatRequest {
    pub(crate) model: Option<String>,
    pub(crate) messages: Option<Vec<ChatMessage>>,
    pub(crate) logprobs: Option<bool>,
    pub(crate) top_logprobs: Option<usize>,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) max_completion_tokens: Option<usize>,
    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<StreamOptions>,
    pub(crate) ignore_eos: Option<bool>,
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) top_k: Option<i64>,
    pub(crate) seed: Option<i64>,
    pub(crate) stop: Option<Stop>,
    pub(crate) stop_token_ids: Option<Vec<u32>>,
    pub(crate) include_stop_str_in_output: Option<bool>,
    pub(crate) skip_special_tokens: Option<bool>,
    pub(crate) tools: Option<Vec<Json>>,
    pub(crate) tool_choice: Option<Json>,
    pub(crate) parallel_tool_calls: Option<bool>,
    pub(crate) add_generation_prompt: Option<bool>,
    pub(crate) continue_final_message: Option<bool>,
}

impl ChatRequest {
    /// The fields of sampling.
    pub(crate) fn sampling(&self) -> SamplingFields {
        SamplingFields {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            seed: self.seed,
            stop: self.stop.clone(),
            stop_token_ids: self.stop_token_ids.clone(),
        }
    }

    /// How the answer is made and sent.
    pub(crate) fn answer(&self) -> AnswerFields {
        AnswerFields {
            ignore_eos: self.ignore_eos.unwrap_or(false),
            include_stop_str_in_output: self.include_stop_str_in_output.unwrap_or(false),
            special_tokens: self.skip_special_tokens == Some(false),
            delivery: Delivery::of(self.stream, self.stream_options),
        }
    }
}

/// `logprobs` of a chat's answer: one object a token. `bytes` are a token's own: it may be a part of a character.
pub(crate) fn chat_log_probabilities(
    scores: &[TokenScore],
    bytes: impl Fn(u32) -> Vec<u8>,
) -> Value {
    let entry = |token: u32, value: f64| {
        let bytes = bytes(token);
        json!({ "token": String::from_utf8_lossy(&bytes), "logprob": finite(value), "bytes": bytes })
    };
    let content = scores.iter().map(|score| {
        let mut item = entry(score.token, score.log_probability.unwrap_or_default());
        item["top_logprobs"] = score
            .alternatives
            .iter()
            .map(|(token, value)| entry(*token, *value))
            .collect();
        item
    });
    json!({ "content": content.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_character_has_its_own_bytes() {
        let score = TokenScore {
            token: 7,
            log_probability: Some(-0.5),
            alternatives: vec![(8, -0.25)],
        };
        let bytes = |token: u32| {
            if token == 7 {
                vec![0xe2, 0x82]
            } else {
                b"a".to_vec()
            }
        };
        let value = chat_log_probabilities(&[score], bytes);
        let expected = json!({ "content": [{
            "token": "\u{fffd}", "logprob": -0.5, "bytes": [0xe2, 0x82],
            "top_logprobs": [{ "token": "a", "logprob": -0.25, "bytes": [97] }],
        }] });
        assert_eq!(value, expected);
    }
}
