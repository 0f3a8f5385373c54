//! What the requests have in common: reading them with errors that name the field, and the fields of sampling.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::table::Table;
use crate::serve::request_error::RequestError;
use crate::serve::sampling::Sampling;

/// The most stop strings of a request, and the longest one in bytes: each new token is compared with all of them.
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 1024;
/// The most token ids that end an answer.
const MAX_STOP_TOKENS: usize = 128;

/// Reads a request whose fields are those of the table. An error names the field.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8], fields: &Table) -> Result<T, RequestError> {
    // First, for it has the words of JSON, and takes no list for an object.
    fields.check(body)?;
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner().to_string();
        // Where in the body helps nobody whose client has made it.
        let cause = cause.rsplit_once(" at line ").map_or(&*cause, |(it, _)| it);
        if path == "." {
            RequestError::Request(format!("the body is wrong: {cause}"))
        } else {
            let field = path.split(['.', '[']).next().unwrap_or(&path).to_owned();
            RequestError::field(field, format!("`{path}` is wrong: {cause}"))
        }
    })
}

/// One stop string or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub(crate) enum Stop {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

/// What a stream is to send besides the text.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct StreamOptions {
    /// A last chunk with the usage.
    #[serde(default)]
    pub(crate) include_usage: Option<bool>,
}

/// The fields of sampling and stopping, still as the client wrote them.
#[derive(Clone, Debug, Default)]
pub(crate) struct SamplingFields {
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) top_k: Option<i64>,
    pub(crate) seed: Option<i64>,
    pub(crate) stop: Option<Stop>,
    pub(crate) stop_token_ids: Option<Vec<u32>>,
}

/// How an answer is made and sent besides, with every default decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswerFields {
    /// Whether the model's own end tokens end no answer.
    pub(crate) ignore_eos: bool,
    /// Whether what ends an answer is text of it.
    pub(crate) include_stop_str_in_output: bool,
    /// Whether special tokens are text of it.
    pub(crate) special_tokens: bool,
    /// How it is sent.
    pub(crate) delivery: Delivery,
}

/// How an answer is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Delivery {
    /// At once, with its usage.
    Whole,
    /// Piece by piece.
    Stream {
        /// Whether the usage comes last.
        with_usage: bool,
    },
}

impl Delivery {
    /// What a request says of it.
    pub(super) fn of(stream: Option<bool>, options: Option<StreamOptions>) -> Self {
        let usage = options.and_then(|options| options.include_usage);
        match stream.unwrap_or(false) {
            true => Self::Stream {
                with_usage: usage.unwrap_or(false),
            },
            false => Self::Whole,
        }
    }
}

/// What ends an answer besides the model's end tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stops {
    /// Texts, none of them empty.
    pub(crate) strings: Vec<String>,
    /// Tokens.
    pub(crate) tokens: Vec<u32>,
}

impl SamplingFields {
    /// The sampling and what ends the answer, or the first field that is out of bounds. `vocabulary` is the model's, in tokens.
    pub(crate) fn validate(self, vocabulary: usize) -> Result<(Sampling, Stops), RequestError> {
        let temperature = self.temperature.unwrap_or(1.0);
        if !(0.0..=2.0).contains(&temperature) {
            return Err(RequestError::field(
                "temperature",
                format!("`temperature` is {temperature}, expected 0 to 2"),
            ));
        }
        let top_p = self.top_p.unwrap_or(1.0);
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(RequestError::field(
                "top_p",
                format!("`top_p` is {top_p}, expected more than 0 and at most 1"),
            ));
        }
        let top_k = match self.top_k {
            None | Some(0 | -1) => None,
            Some(top_k) if top_k > 0 => Some(top_k as usize),
            Some(top_k) => {
                return Err(RequestError::field(
                    "top_k",
                    format!("`top_k` is {top_k}, expected at least 1, or 0 or -1 for all"),
                ));
            }
        };
        let stops = match self.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop],
            Some(Stop::Several(stops)) => stops,
        };
        if stops.len() > MAX_STOPS {
            return Err(RequestError::field(
                "stop",
                format!(
                    "`stop` has {} strings, expected at most {MAX_STOPS}",
                    stops.len()
                ),
            ));
        }
        if let Some(stop) = stops
            .iter()
            .find(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES)
        {
            let length = stop.len();
            return Err(RequestError::field(
                "stop",
                format!("`stop` has a string of {length} bytes, expected 1 to {MAX_STOP_BYTES}"),
            ));
        }
        let tokens = self.stop_token_ids.unwrap_or_default();
        if tokens.len() > MAX_STOP_TOKENS {
            return Err(RequestError::field(
                "stop_token_ids",
                format!(
                    "`stop_token_ids` has {} ids, expected at most {MAX_STOP_TOKENS}",
                    tokens.len()
                ),
            ));
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= vocabulary) {
            let last = vocabulary.saturating_sub(1);
            return Err(RequestError::field(
                "stop_token_ids",
                format!("`stop_token_ids` has the token id {token}, expected 0 to {last}"),
            ));
        }
        let stops = Stops {
            strings: stops,
            tokens,
        };
        Ok((
            Sampling {
                temperature,
                top_p,
                top_k,
                seed: self.seed.map(|seed| seed as u64),
            },
            stops,
        ))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::{COMPLETION, CompletionRequest};
    use super::*;

    fn message(error: &RequestError) -> (String, String) {
        let field = error.param().unwrap_or_default().to_owned();
        (error.to_string(), field)
    }

    #[rstest]
    #[case::kind(r#"{"temperature": "hot"}"#, "temperature", "expected a number")]
    #[case::items(
        r#"{"prompt": [1, "a"]}"#,
        "prompt",
        "expected the prompt to be a string"
    )]
    #[case::text(r#"{"user": "x", "stop": "\ud800"}"#, "stop", "`stop` is wrong")]
    fn a_field_that_cannot_be_read_is_named(
        #[case] body: &str,
        #[case] name: &str,
        #[case] words: &str,
    ) {
        let read = read::<CompletionRequest>(body.as_bytes(), &COMPLETION);
        let (text, field) = message(&read.unwrap_err());
        assert_eq!(field, name);
        assert!(text.contains(words) && !text.contains("line"), "{text}");
    }

    #[test]
    fn a_stop_token_that_the_model_does_not_have_is_refused() {
        let stops = |token| SamplingFields {
            stop_token_ids: Some(vec![0, token]),
            ..SamplingFields::default()
        };
        stops(319).validate(320).unwrap();
        let (text, field) = message(&stops(320).validate(320).unwrap_err());
        assert_eq!(field, "stop_token_ids");
        assert!(text.contains("320, expected 0 to 319"), "{text}");
    }

    #[test]
    fn sampling_out_of_bounds_names_the_field() {
        let fields = SamplingFields {
            temperature: Some(-0.5),
            ..SamplingFields::default()
        };
        assert_eq!(message(&fields.validate(1).unwrap_err()).1, "temperature");
        let fields = SamplingFields {
            top_p: Some(0.0),
            ..SamplingFields::default()
        };
        assert_eq!(message(&fields.validate(1).unwrap_err()).1, "top_p");
        let fields = SamplingFields {
            stop: Some(Stop::One(String::new())),
            ..SamplingFields::default()
        };
        assert_eq!(message(&fields.validate(1).unwrap_err()).1, "stop");
    }
}
