//! The bodies of requests in memory: never more of them at once than a server has room for, and never one from a client that
//! does not send. Both servers read with it, so that neither can be filled by those who talk to it.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use reqwest::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// The greatest body of either server, in bytes: neither refuses what the other would take.
pub const MAX_BODY: usize = 16 << 20;
/// How long a body waits for the others.
const TURN: Duration = Duration::from_secs(30);
/// How long a client may send nothing, and how far it may fall behind [`LEAST_RATE`].
const PAUSE: Duration = Duration::from_secs(30);
/// The least rate of a body, in bytes a second: without it a byte now and then would keep a place for ever.
const LEAST_RATE: u32 = 128 << 10;
/// How much of a body that is refused is taken in before its connection is closed, in greatest bodies.
const MOST_PASSED_OVER: usize = 4;

/// How much room a server has. All bodies together stay at `all_small + large * body` bytes; of each one that waits, what
/// came first is held besides, which is no more than the buffer of its connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// The greatest body, in bytes.
    pub body: usize,
    /// Up to here, in bytes, a body is small: its bytes count one by one.
    pub small: usize,
    /// All small bodies at once, in bytes.
    pub all_small: usize,
    /// How many small bodies may wait for room.
    pub small_waiting: usize,
    /// How many larger bodies there may be at once.
    pub large: usize,
    /// How many larger bodies may wait for a place.
    pub large_waiting: usize,
}

/// What the head of a request says about its body.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Announced {
    /// The length, in bytes. Absent: its client does not know it yet.
    pub length: Option<usize>,
    /// Whether the client sends nothing before it is asked to (`Expect: 100-continue`).
    pub expects_continue: bool,
}

/// Why a body was not read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// More than the greatest.
    #[error("the body has more than {most} bytes; send a shorter prompt")]
    TooLarge {
        /// The bytes of the greatest body.
        most: usize,
    },
    /// The client sends too slowly.
    #[error(
        "the body came too slowly; send it without a pause and with at least {} KiB a second",
        LEAST_RATE >> 10
    )]
    Slow,
    /// No room for it now.
    #[error("too many request bodies at once; try again in a moment")]
    Crowded,
    /// The connection broke.
    #[error("the body ended early: {0}")]
    Broken(String),
}

impl Fault {
    /// The status that says whose turn it is.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Crowded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken(_) => StatusCode::BAD_REQUEST,
        }
    }
}

/// The room for bodies, shared by all requests.
#[derive(Clone, Debug)]
pub struct Bodies {
    limits: Limits,
    /// A permit is a byte.
    small: Room,
    /// A permit is a body.
    large: Room,
}

/// Permits, and places to wait for them.
#[derive(Clone, Debug)]
struct Room {
    free: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Room {
    fn new(permits: usize, waiting: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(permits)),
            waiting: Arc::new(Semaphore::new(waiting)),
        }
    }

    /// Those who wait hold what they have read so far, so that they are counted too.
    async fn take(&self, permits: usize) -> Result<OwnedSemaphorePermit, Fault> {
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        if let Ok(room) = Arc::clone(&self.free).try_acquire_many_owned(permits) {
            return Ok(room);
        }
        let _place = self.waiting.try_acquire().map_err(|_| Fault::Crowded)?;
        let turn = timeout(TURN, Arc::clone(&self.free).acquire_many_owned(permits)).await;
        turn.ok().and_then(Result::ok).ok_or(Fault::Crowded)
    }
}

/// A body in memory, and its room.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    /// How many bytes there is room for.
    most: usize,
    room: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Bodies {
    /// Room as `limits` say.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            small: Room::new(limits.all_small, limits.small_waiting),
            large: Room::new(limits.large, limits.large_waiting),
        }
    }

    /// Reads a body whole, as far as there is room for it. The room is given back when the last handle of these bytes is dropped.
    pub async fn read<E: Display>(
        &self,
        announced: Announced,
        mut chunks: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Bytes, Fault> {
        let most = self.limits.body;
        let is_announced = announced.length.is_some_and(|length| length > most);
        if is_announced && announced.expects_continue {
            // To look at the body would ask its client to send it.
            return Err(Fault::TooLarge { most });
        }
        let read = if is_announced {
            Err(Fault::TooLarge { most })
        } else {
            self.collect(announced.length, &mut chunks).await
        };
        if matches!(read, Err(Fault::TooLarge { .. } | Fault::Crowded)) {
            // Most clients look at the answer only when they have sent all: closed before that, the connection is all they see.
            let _ = timeout(PAUSE, pass_over(&mut chunks, MOST_PASSED_OVER * most)).await;
        }
        read
    }

    /// Room is taken when the first bytes have come: who announces much and sends nothing takes none.
    async fn collect<E: Display>(
        &self,
        announced: Option<usize>,
        chunks: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
    ) -> Result<Bytes, Fault> {
        let Limits { body, small, .. } = self.limits;
        let mut patience = Patience::default();
        let mut held = Held::default();
        while let Some(chunk) = patience.next(chunks).await? {
            let length = held.bytes.len() + chunk.len();
            if length > body {
                return Err(Fault::TooLarge { most: body });
            }
            if length > held.most {
                let first = announced.unwrap_or(small);
                let mut larger = self.hold(if length > first { body } else { first }).await?;
                larger.bytes.extend_from_slice(&held.bytes);
                // The room before is kept until now, for its bytes were there until now.
                held = larger;
            }
            held.bytes.extend_from_slice(&chunk);
        }
        if held.most <= small {
            let excess = held.most - held.bytes.len();
            held.bytes.shrink_to_fit();
            held.most = held.bytes.len();
            drop(held.room.as_mut().and_then(|room| room.split(excess)));
        }
        Ok(Bytes::from_owner(held))
    }

    /// Room for a body of up to `most` bytes, in one step: bodies that hold a part and wait for the rest wait for each other. The
    /// price is that a client which stops after its first byte keeps all that it announced, but for no longer than [`PAUSE`].
    async fn hold(&self, most: usize) -> Result<Held, Fault> {
        let room = if most <= self.limits.small {
            self.small.take(most).await?
        } else {
            self.large.take(1).await?
        };
        Ok(Held {
            // Reserved at once: a buffer that doubles would hold the body twice.
            bytes: Vec::with_capacity(most),
            most,
            room: Some(room),
        })
    }
}

/// What is left of a server's patience with one client. Only the time counts in which the server waits for the client, not that
/// in which the body waits for others.
#[derive(Default)]
struct Patience {
    waited: Duration,
    received: usize,
}

impl Patience {
    async fn next<E: Display>(
        &mut self,
        chunks: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
    ) -> Result<Option<Bytes>, Fault> {
        let earned = Duration::from_secs(self.received as u64) / LEAST_RATE;
        let left = (PAUSE + earned).saturating_sub(self.waited);
        let asked = Instant::now();
        let next = timeout(left.min(PAUSE), chunks.next()).await;
        self.waited += asked.elapsed();
        let next = next.map_err(|_| Fault::Slow)?.transpose();
        let chunk = next.map_err(|error| Fault::Broken(error.to_string()))?;
        self.received += chunk.as_ref().map_or(0, Bytes::len);
        Ok(chunk)
    }
}

/// Takes in what a client still sends, up to `most` bytes, and keeps nothing of it.
async fn pass_over<E>(chunks: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin), most: usize) {
    let mut left = most;
    while left > 0 {
        match chunks.next().await {
            Some(Ok(chunk)) => left = left.saturating_sub(chunk.len()),
            Some(Err(_)) | None => break,
        }
    }
}

#[cfg(test)]
mod tests;
