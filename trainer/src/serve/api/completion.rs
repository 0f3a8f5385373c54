//! `POST /v1/completions`: the request, and log-probabilities in its form.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::fields::{AnswerFields, Delivery, SamplingFields, Stop, StreamOptions};
use super::prompt::Prompt;
use crate::serve::generation::TokenScore;

/// The request.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct CompletionRequest {
    pub(crate) model: Option<String>,
    pub(crate) prompt: Option<Prompt>,
    pub(crate) echo: Option<bool>,
    pub(crate) logprobs: Option<usize>,
    pub(crate) max_tokens: Option<usize>,
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
    pub(crate) add_special_tokens: Option<bool>,
}

impl CompletionRequest {
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

/// `logprobs` of a completion: parallel arrays. `offset` counts the characters before the first token and is moved on;
/// `text` is a token's own text.
pub(crate) fn completion_log_probabilities(
    scores: &[TokenScore],
    offset: &mut usize,
    text: impl Fn(u32) -> String,
) -> Value {
    let (mut tokens, mut values, mut alternatives, mut offsets) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for score in scores {
        let token = text(score.token);
        alternatives.push(score.log_probability.map(|own| {
            let mut items = Map::new();
            items.insert(token.clone(), json!(finite(own)));
            for (other, value) in score
                .alternatives
                .iter()
                .filter(|(other, _)| *other != score.token)
            {
                // Tokens that are no whole character share one text: vLLM's other name keeps them apart.
                let name = Some(text(*other)).filter(|name| !items.contains_key(name));
                items.insert(
                    name.unwrap_or_else(|| format!("token_id:{other}")),
                    json!(finite(*value)),
                );
            }
            items
        }));
        values.push(score.log_probability.map(finite));
        offsets.push(*offset);
        *offset += token.chars().count();
        tokens.push(token);
    }
    json!({ "tokens": tokens, "token_logprobs": values, "top_logprobs": alternatives, "text_offset": offsets })
}

/// JSON has no infinity: vLLM's floor.
pub(super) fn finite(value: f64) -> f64 {
    value.max(-9999.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_token_of_a_prompt_has_no_probability() {
        let scores = [
            TokenScore {
                token: 5,
                log_probability: None,
                alternatives: Vec::new(),
            },
            TokenScore {
                token: 6,
                log_probability: Some(-0.5),
                alternatives: vec![(7, -0.25)],
            },
        ];
        let mut offset = 3;
        let value =
            completion_log_probabilities(&scores, &mut offset, |token| format!("t{token}é"));
        let same = completion_log_probabilities(&scores, &mut 0, |_| "\u{fffd}".to_owned());
        assert_eq!(
            same["top_logprobs"][1],
            json!({ "\u{fffd}": -0.5, "token_id:7": -0.25 })
        );
        assert_eq!(value["token_logprobs"], json!([null, -0.5]));
        assert_eq!(
            value["top_logprobs"],
            json!([null, { "t6é": -0.5, "t7é": -0.25 }])
        );
        assert_eq!(value["text_offset"], json!([3, 6]));
        assert_eq!(offset, 9);
    }
}
