//! The bodies of requests in memory: never more of them at once than a server has room for, and never one from a client that
//! does not send. Both servers read with it, so that neither can be filled by those who talk to it.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The greatest body, in bytes.
pub const MAX_BODY: usize = 16 << 20;
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

/// The room for bodies, shared by all requests.
#[derive(Clone, Debug)]
pub struct Bodies {
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

/// Why a body was not read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
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
}

impl Fault {
    /// The status of HTTP that says whose turn it is.
    pub const fn status(&self) -> u16 {
        match self {
            Self::TooLarge => 413,
            Self::Slow => 408,
            Self::Crowded => 503,
            Self::Broken(_) => 400,
        }
    }
}

/// A body in memory, and its room.
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
    /// Reads a body whole, as far as there is room for it. `announced` is its length as its client announced it, in bytes. The room is
    /// given back when the last handle of these bytes is dropped.
    pub async fn read<E: std::fmt::Display>(
        &self,
        announced: Option<usize>,
        mut chunks: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Bytes, Fault> {
        let read = match announced {
            Some(bytes) if bytes > MAX_BODY => Err(Fault::TooLarge),
            _ => tokio::time::timeout(WHOLE, self.collect(announced, &mut chunks))
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
        announced: Option<usize>,
        mut chunks: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Bytes, Fault> {
        let mut bytes = BytesMut::with_capacity(announced.unwrap_or(0).min(SMALL));
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
                let mut whole = BytesMut::with_capacity(announced.unwrap_or(MAX_BODY).max(length));
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn chunks(count: usize, size: usize) -> impl Stream<Item = Result<Bytes, Infallible>> + Unpin {
        futures::stream::iter((0..count).map(move |_| Ok(Bytes::from(vec![b' '; size]))))
    }

    #[tokio::test]
    async fn room_is_given_back_when_the_last_handle_is_dropped() {
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
            let last = body.slice(body.len() - 1..);
            drop(body);
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
