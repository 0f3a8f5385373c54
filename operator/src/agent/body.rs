//! What a request's body names, and the body with another name in it.
//!
//! A body is looked through and sent on as it came, with another value of `model` and nothing else changed. It is never
//! turned into values: a list of numbers would take thirty times its bytes.

use std::ops::Range;

use axum::http::StatusCode;
use bytes::Bytes;
use finetune_artifacts::network::bodies;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Bodies are sent on in pieces of at most this many bytes, so that no buffer on the way holds one whole.
const PIECE: usize = 256 << 10;

/// The room for bodies: 96 MiB, well below the 256 MiB that the chart gives the agent.
pub(crate) const LIMITS: bodies::Limits = bodies::Limits {
    body: bodies::MAX_BODY,
    small: 1 << 20,
    all_small: 32 << 20,
    small_waiting: 64,
    large: 4,
    large_waiting: 16,
};

/// Why a body cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Fault {
    /// It was not read.
    #[error(transparent)]
    Unread(#[from] bodies::Fault),
    /// It is no object of JSON.
    #[error("the body is not a JSON object: {0}")]
    NotJson(String),
    /// Engines take their base then, which must not happen in silence.
    #[error("`model` is missing or not a string, expected an adapter's name or the base's")]
    NoModel,
    /// Engines differ in which one they take.
    #[error("`model` stands twice, expected once; leave one out")]
    TwoModels,
}

impl Fault {
    /// The status that says whose turn it is.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Unread(fault) => fault.status(),
            Self::NotJson(_) | Self::NoModel | Self::TwoModels => StatusCode::BAD_REQUEST,
        }
    }

    /// The field of the request that is at fault, where it is one.
    pub(crate) fn field(&self) -> Option<&'static str> {
        match self {
            Self::Unread(_) | Self::NotJson(_) => None,
            Self::NoModel | Self::TwoModels => Some("model"),
        }
    }
}

/// The value of `model` in a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Model {
    /// What the client asked for.
    pub name: String,
    /// Where it stands in the body, with its quotes.
    place: Range<usize>,
}

impl Model {
    /// Finds the value. Looks through the whole body and keeps nothing of it; a body that names `model` twice is refused.
    pub(crate) fn find(body: &[u8]) -> Result<Self, Fault> {
        #[derive(Deserialize)]
        struct Request<'body> {
            #[serde(borrow)]
            model: Option<&'body RawValue>,
        }
        // A list of one value would be taken for the fields in their order.
        if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err(Fault::NotJson("expected `{` at its beginning".into()));
        }
        let request: Request<'_> = serde_json::from_slice(body).map_err(|error| {
            // Any value will do here, and any other field: the one thing that JSON may have wrong is a second `model`.
            if error.is_data() {
                Fault::TwoModels
            } else {
                Fault::NotJson(error.to_string())
            }
        })?;
        let value = request.model.ok_or(Fault::NoModel)?.get();
        let name = serde_json::from_str(value).map_err(|_| Fault::NoModel)?;
        let start = value.as_ptr().addr() - body.as_ptr().addr();
        Ok(Self {
            name,
            place: start..start + value.len(),
        })
    }

    /// The body with another name in this place: its length, and its pieces in order. Takes the body, so that its room is free
    /// when the last piece is sent.
    pub(crate) fn replaced(&self, body: Bytes, name: &str) -> (usize, Vec<Bytes>) {
        let name = Bytes::from(serde_json::Value::from(name).to_string());
        let before = body.slice(..self.place.start);
        let after = body.slice(self.place.end..);
        let length = before.len() + name.len() + after.len();
        let pieces = pieces(&before).chain([name]).chain(pieces(&after));
        (length, pieces.collect())
    }
}

/// A body as it came: its length, and its pieces in order. Takes the body, so that its room is free when the last piece is sent.
#[expect(
    clippy::needless_pass_by_value,
    reason = "a handle that stays behind would keep the room"
)]
pub(crate) fn unchanged(body: Bytes) -> (usize, Vec<Bytes>) {
    (body.len(), pieces(&body).collect())
}

fn pieces(bytes: &Bytes) -> impl Iterator<Item = Bytes> {
    (0..bytes.len())
        .step_by(PIECE)
        .map(|start| bytes.slice(start..bytes.len().min(start + PIECE)))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::Poll;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn replaced(body: &str, name: &str) -> String {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let (length, pieces) = Model::find(&body).unwrap().replaced(body, name);
        let text = pieces.concat();
        assert_eq!(text.len(), length);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn only_the_models_name_changes_and_every_other_byte_stays() {
        let body = r#" {"seed": 18446744073709551617, "temperature":1.0e0, "prompt":"\"model\": \"tone\"",
            "model" : "to\u006ee" , "nested": {"model": "tone"}, "seed": 1} "#;
        assert_eq!(
            replaced(body, "tone@\"1"),
            body.replace(r#""to\u006ee""#, r#""tone@\"1""#)
        );
    }

    #[test]
    fn a_body_with_two_models_is_refused_for_its_model() {
        let fault = Model::find(br#"{"model":"a","mod\u0065l":"b"}"#).unwrap_err();
        assert_eq!((&fault, fault.field()), (&Fault::TwoModels, Some("model")));
    }

    #[rstest::rstest]
    #[case::a_list(r#"["a"]"#)]
    #[case::no_json("model=a")]
    #[case::unfinished(r#"{"model":"a""#)]
    #[case::two_objects(r#"{"model":"a"}{"model":"b"}"#)]
    #[case::utf_16("{\0\"\0")]
    #[case::nothing("")]
    fn what_is_no_object_in_json_is_refused(#[case] body: &str) {
        let fault = Model::find(body.as_bytes()).unwrap_err();
        assert!(matches!(fault, Fault::NotJson(_)), "{fault}");
    }

    #[rstest::rstest]
    #[case("{}")]
    #[case(r#"{"model":null}"#)]
    #[case(r#"{"model":1}"#)]
    #[case(r#"{"messages":[{"model":"a"}]}"#)]
    fn a_request_without_a_model_is_refused(#[case] body: &str) {
        assert_eq!(Model::find(body.as_bytes()), Err(Fault::NoModel));
    }

    proptest! {
        #[test]
        fn any_body_that_parses_comes_out_with_the_new_name_alone(
            name in ".*", other in ".*", prompt in ".*", numbers in proptest::collection::vec(any::<i64>(), 0..50)
        ) {
            let mut request = json!({"a": numbers, "model": name, "prompt": prompt});
            let sent = replaced(&request.to_string(), &other);
            request["model"] = Value::from(other);
            prop_assert_eq!(serde_json::from_str::<Value>(&sent).unwrap(), request);
        }

        #[test]
        fn bytes_that_nobody_made_never_end_it(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Model::find(&body);
        }
    }
    #[tokio::test]
    async fn a_large_body_gives_its_room_back_when_its_last_piece_is_sent_on() {
        let bodies = bodies::Bodies::new(LIMITS);
        let large = || {
            let chunks = (0..2).map(|_| Ok::<_, Infallible>(Bytes::from(vec![b' '; 1 << 20])));
            bodies.read(bodies::Announced::default(), futures::stream::iter(chunks))
        };
        let mut held = Vec::new();
        let mut waits = loop {
            let mut read = Box::pin(large());
            match futures::poll!(&mut read) {
                Poll::Ready(body) => held.push(unchanged(body.unwrap()).1),
                Poll::Pending => break read,
            }
        };
        let mut pieces = held.pop().unwrap();
        pieces.truncate(1);
        assert!(futures::poll!(&mut waits).is_pending());
        drop(pieces);
        assert_eq!(waits.await.unwrap().len(), 2 << 20);
    }
}
