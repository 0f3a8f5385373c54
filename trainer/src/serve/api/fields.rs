//! What the requests have in common: reading them with errors that name the field, and the fields of sampling.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ApiError;
use super::table::Table;
use crate::serve::sampling::Sampling;

/// The most stop strings of a request, and the longest one in bytes: each new token is compared with all of them.
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 1024;
/// The most token ids that end an answer.
const MAX_STOP_TOKENS: usize = 128;

/// Reads a request. An error names the field.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let request = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        if path == "." {
            ApiError::bad_request(format!("the body is not a request: {cause}"))
        } else {
            let field = path.split(['.', '[']).next().unwrap_or(&path).to_owned();
            ApiError::field(field, format!("`{path}` is wrong: {cause}"))
        }
    })?;
    deserializer
        .end()
        .map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")))?;
    Ok(request)
}

/// Reads a request and checks its fields against those that are known. An error names the field.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8], fields: &Table) -> Result<T, ApiError> {
    let request = parse(body)?;
    fields.check(body)?;
    Ok(request)
}

/// One stop string or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or an array of strings")]
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

/// What ends an answer besides the model's end tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stops {
    /// Texts, none of them empty.
    pub(crate) strings: Vec<String>,
    /// Tokens.
    pub(crate) tokens: Vec<u32>,
}

impl SamplingFields {
    /// The sampling and what ends the answer, or the first field that is out of bounds.
    pub(crate) fn validate(self) -> Result<(Sampling, Stops), ApiError> {
        let temperature = self.temperature.unwrap_or(1.0);
        if !(0.0..=2.0).contains(&temperature) {
            return Err(ApiError::field(
                "temperature",
                format!("`temperature` is {temperature}, expected 0 to 2"),
            ));
        }
        let top_p = self.top_p.unwrap_or(1.0);
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(ApiError::field(
                "top_p",
                format!("`top_p` is {top_p}, expected more than 0 and at most 1"),
            ));
        }
        let top_k = match self.top_k {
            None | Some(0 | -1) => None,
            Some(top_k) if top_k > 0 => Some(top_k as usize),
            Some(top_k) => {
                return Err(ApiError::field(
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
            return Err(ApiError::field(
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
            return Err(ApiError::field(
                "stop",
                format!("`stop` has a string of {length} bytes, expected 1 to {MAX_STOP_BYTES}"),
            ));
        }
        let tokens = self.stop_token_ids.unwrap_or_default();
        if tokens.len() > MAX_STOP_TOKENS {
            return Err(ApiError::field(
                "stop_token_ids",
                format!(
                    "`stop_token_ids` has {} ids, expected at most {MAX_STOP_TOKENS}",
                    tokens.len()
                ),
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
    use serde_json::Value;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Request {
        #[expect(dead_code, reason = "only whether it parses matters here")]
        temperature: Option<f64>,
    }

    fn message(error: &ApiError) -> (String, Value) {
        let body = error.body();
        (
            body["error"]["message"].as_str().unwrap().to_owned(),
            body["error"]["param"].clone(),
        )
    }

    #[test]
    fn a_field_of_the_wrong_type_is_named() {
        let (text, field) = message(&parse::<Request>(br#"{"temperature": "hot"}"#).unwrap_err());
        assert_eq!(field, "temperature");
        assert!(text.contains("expected f64"), "{text}");
    }

    #[test]
    fn sampling_out_of_bounds_names_the_field() {
        let fields = SamplingFields {
            temperature: Some(-0.5),
            ..SamplingFields::default()
        };
        assert_eq!(message(&fields.validate().unwrap_err()).1, "temperature");
        let fields = SamplingFields {
            top_p: Some(0.0),
            ..SamplingFields::default()
        };
        assert_eq!(message(&fields.validate().unwrap_err()).1, "top_p");
        let fields = SamplingFields {
            stop: Some(Stop::One(String::new())),
            ..SamplingFields::default()
        };
        assert_eq!(message(&fields.validate().unwrap_err()).1, "stop");
    }
}
