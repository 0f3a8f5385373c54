//! Request bodies: read whole, because the model's name may stand at their end, and never more of them at once than the
//! agent's memory holds.
//!
//! A body is looked through and sent on as it came, with another value of `model` and nothing else changed. It is never
//! turned into values: a list of numbers would take thirty times its bytes.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The greatest body, in bytes.
pub(crate) const MAX_BODY: usize = 16 << 20;
/// Up to here a body is small: its bytes count one by one against [`SMALL_BYTES`].
const SMALL: usize = 1 << 20;
/// All small bodies at once, in bytes.
const SMALL_BYTES: usize = 32 << 20;
/// Larger bodies at once. With the small ones they stay at 96 MiB, well below the 256 MiB that the chart gives the agent.
const LARGE_BODIES: usize = 4;
/// How long a body waits for the others.
const TURN: Duration = Duration::from_secs(30);
/// How long a client may send nothing in the middle of a body.
const PAUSE: Duration = Duration::from_secs(30);
/// How long a client may take for a whole body, however steadily it sends.
const WHOLE: Duration = Duration::from_mins(5);
/// How much of a body that is too large is taken in before its connection is closed.
const MOST_PASSED_OVER: usize = 4 * MAX_BODY;
/// Bodies are sent on in pieces of at most this many bytes, so that no buffer on the way holds one whole.
const PIECE: usize = 256 << 10;

/// The room for bodies, shared by all requests.
#[derive(Clone, Debug)]
pub(crate) struct Bodies {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    turn: Duration,
    pause: Duration,
}

impl Default for Bodies {
    fn default() -> Self {
        Self {
            small: Arc::new(Semaphore::new(SMALL_BYTES)),
            large: Arc::new(Semaphore::new(LARGE_BODIES)),
            turn: TURN,
            pause: PAUSE,
        }
    }
}

/// Why a body cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Fault {
    /// More than [`MAX_BODY`].
    #[error("the body has more than {MAX_BODY} bytes; send a shorter prompt")]
    TooLarge,
    /// The client sends too slowly.
    #[error("the body did not arrive in time; send it without a pause")]
    Slow,
    /// No room for it now.
    #[error("too many request bodies at once; try again in a moment")]
    Crowded,
    /// The connection broke.
    #[error("the body ended early: {0}")]
    Broken(String),
    /// It is no object of JSON.
    #[error("the body is not a JSON object: {0}")]
    NotJson(String),
    /// Engines take their base then, which must not happen in silence.
    #[error("`model` is missing or not a string, expected an adapter's name or the base's")]
    NoModel,
}

impl Fault {
    /// The status that says whose turn it is.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Crowded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken(_) | Self::NotJson(_) | Self::NoModel => StatusCode::BAD_REQUEST,
        }
    }
}

/// A body in memory. Its room is given back when the last of its bytes has been sent on.
struct Held {
    bytes: BytesMut,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Bodies {
    /// Reads a body whole, as far as there is room for it.
    pub(crate) async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, Fault> {
        let declared = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse::<usize>().ok());
        let mut chunks = body.into_data_stream();
        let read = match declared {
            Some(bytes) if bytes > MAX_BODY => Err(Fault::TooLarge),
            _ => tokio::time::timeout(WHOLE, self.collect(declared, &mut chunks))
                .await
                .unwrap_or(Err(Fault::Slow)),
        };
        if matches!(read, Err(Fault::TooLarge)) {
            // Most clients look at the answer only when they have sent all: closed before that, the connection is all they see.
            let _ = tokio::time::timeout(self.pause, pass_over(&mut chunks)).await;
        }
        read
    }

    /// Room is taken for bytes that have come, not for those that were announced: who sends nothing takes none.
    async fn collect<E: std::fmt::Display>(
        &self,
        declared: Option<usize>,
        mut chunks: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Bytes, Fault> {
        let mut bytes = BytesMut::with_capacity(declared.unwrap_or(0).min(SMALL));
        let mut room = self.take_small(0).await?;
        let mut is_small = true;
        loop {
            let next = tokio::time::timeout(self.pause, chunks.next()).await;
            let Some(chunk) = next.map_err(|_| Fault::Slow)? else {
                break;
            };
            let chunk = chunk.map_err(|error| Fault::Broken(error.to_string()))?;
            let length = bytes.len() + chunk.len();
            if length > MAX_BODY {
                return Err(Fault::TooLarge);
            }
            if is_small && length > SMALL {
                // Given back first: bodies that wait for their turn must not keep small ones out.
                drop(room);
                room = self.take_large().await?;
                // Reserved at once: a buffer that doubles would hold the body twice. Pages that stay empty cost nothing.
                let mut whole = BytesMut::with_capacity(declared.unwrap_or(MAX_BODY).max(length));
                whole.extend_from_slice(&bytes);
                bytes = whole;
                is_small = false;
            } else if is_small {
                room.merge(self.take_small(chunk.len()).await?);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Bytes::from_owner(Held { bytes, _room: room }))
    }

    async fn take_small(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Fault> {
        let count = u32::try_from(bytes).map_err(|_| Fault::TooLarge)?;
        let room = self.small.clone().acquire_many_owned(count);
        let turn = tokio::time::timeout(self.turn, room).await;
        turn.ok().and_then(Result::ok).ok_or(Fault::Crowded)
    }

    async fn take_large(&self) -> Result<OwnedSemaphorePermit, Fault> {
        let turn = tokio::time::timeout(self.turn, self.large.clone().acquire_owned()).await;
        turn.ok().and_then(Result::ok).ok_or(Fault::Crowded)
    }
}

/// Takes in what a client still sends, up to a limit, and keeps nothing of it.
async fn pass_over<E>(chunks: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin)) {
    let mut left = MOST_PASSED_OVER;
    while left > 0 {
        match chunks.next().await {
            Some(Ok(chunk)) => left = left.saturating_sub(chunk.len()),
            Some(Err(_)) | None => break,
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
    /// Finds the value. Looks through the whole body and keeps nothing of it; a body that names `model` twice is refused,
    /// because engines differ in which one they take.
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
        let request: Request<'_> =
            serde_json::from_slice(body).map_err(|error| Fault::NotJson(error.to_string()))?;
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

    #[rstest::rstest]
    #[case::twice(r#"{"model":"a","mod\u0065l":"b"}"#)]
    #[case::a_list(r#"["a"]"#)]
    #[case::no_json("model=a")]
    #[case::unfinished(r#"{"model":"a""#)]
    #[case::two_objects(r#"{"model":"a"}{"model":"b"}"#)]
    #[case::utf_16("{\0\"\0")]
    #[case::nothing("")]
    fn what_engines_could_read_in_two_ways_is_refused(#[case] body: &str) {
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

    fn chunks(count: usize, size: usize) -> impl Stream<Item = Result<Bytes, Infallible>> + Unpin {
        futures::stream::iter((0..count).map(move |_| Ok(Bytes::from(vec![b' '; size]))))
    }

    #[tokio::test]
    async fn room_is_given_back_when_the_last_piece_is_dropped() {
        let bodies = Bodies::default();
        for (count, size) in [(4, 1000), (12, 1 << 20)] {
            let body = bodies.collect(None, chunks(count, size)).await.unwrap();
            assert_eq!(body.len(), count * size);
            let free = |bodies: &Bodies| {
                (
                    bodies.small.available_permits(),
                    bodies.large.available_permits(),
                )
            };
            assert_ne!(free(&bodies), (SMALL_BYTES, LARGE_BODIES));
            let last = unchanged(body).1.pop();
            assert_ne!(free(&bodies), (SMALL_BYTES, LARGE_BODIES));
            drop(last);
            assert_eq!(free(&bodies), (SMALL_BYTES, LARGE_BODIES));
        }
    }

    #[tokio::test]
    async fn a_body_that_grows_past_the_limit_without_saying_so_is_refused() {
        let bodies = Bodies::default();
        let fault = bodies.collect(None, chunks(17, 1 << 20)).await.unwrap_err();
        assert_eq!(fault, Fault::TooLarge);
    }

    /// With waits that a test can sit through.
    fn hasty() -> Bodies {
        Bodies {
            turn: Duration::from_millis(20),
            pause: Duration::from_millis(20),
            ..Bodies::default()
        }
    }

    #[tokio::test]
    async fn a_large_body_waits_for_its_turn_and_gives_up_in_time_while_small_ones_go_on() {
        let bodies = hasty();
        let mut held = Vec::new();
        for _ in 0..LARGE_BODIES {
            held.push(bodies.collect(None, chunks(2, SMALL)).await.unwrap());
        }
        let late = bodies.collect(None, chunks(2, SMALL)).await;
        assert_eq!(late.unwrap_err(), Fault::Crowded);
        assert!(bodies.collect(None, chunks(1, SMALL)).await.is_ok());
        held.pop();
        assert!(bodies.collect(None, chunks(2, SMALL)).await.is_ok());
    }

    #[tokio::test]
    async fn a_client_that_stops_in_the_middle_is_let_go() {
        let bodies = hasty();
        let stuck = chunks(1, 10).chain(futures::stream::pending());
        assert_eq!(bodies.collect(None, stuck).await.unwrap_err(), Fault::Slow);
    }

    #[tokio::test]
    async fn who_announces_much_and_sends_nothing_takes_no_room() {
        let bodies = Bodies::default();
        let mut waiting = Vec::new();
        for _ in 0..100 {
            let mut body = Box::pin(bodies.collect(
                Some(MAX_BODY),
                futures::stream::pending::<Result<Bytes, Infallible>>(),
            ));
            assert!(futures::poll!(&mut body).is_pending());
            waiting.push(body);
        }
        assert_eq!(bodies.small.available_permits(), SMALL_BYTES);
    }
}
