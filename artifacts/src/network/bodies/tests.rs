//! The clock stands still but for those who wait for it, so that no test rests on how fast it runs.

use std::cell::Cell;
use std::convert::Infallible;
use std::task::Poll;

use futures::future::join_all;
use futures::{poll, stream};

use super::*;

const LIMITS: Limits = Limits {
    body: 16 << 20,
    small: 1 << 20,
    all_small: 32 << 20,
    small_waiting: 64,
    large: 4,
    large_waiting: 16,
};

fn bodies() -> Bodies {
    Bodies::new(LIMITS)
}

fn free(bodies: &Bodies) -> (usize, usize) {
    let (small, large) = (&bodies.small.free, &bodies.large.free);
    (small.available_permits(), large.available_permits())
}

fn of(length: usize) -> Announced {
    Announced {
        length: Some(length),
        ..Announced::default()
    }
}

type Chunk = Result<Bytes, Infallible>;

fn chunks(count: usize, size: usize) -> impl Stream<Item = Chunk> + Unpin {
    stream::iter((0..count).map(move |_| Ok(Bytes::from(vec![b' '; size]))))
}

/// Sends one chunk of `size` bytes, and nothing more.
fn stuck(size: usize) -> impl Stream<Item = Chunk> + Unpin {
    chunks(1, size).chain(stream::pending())
}

/// Sends `count` chunks of `size` bytes, each after a wait.
fn slow(count: usize, size: usize, wait: Duration) -> impl Stream<Item = Chunk> + Unpin {
    Box::pin(chunks(count, size).then(move |chunk| async move {
        tokio::time::sleep(wait).await;
        chunk
    }))
}

#[tokio::test]
async fn room_is_given_back_when_the_last_handle_is_dropped() {
    let bodies = bodies();
    for (count, size) in [(4, 1000), (12, 1 << 20)] {
        let read = bodies.read(Announced::default(), chunks(count, size));
        let body = read.await.unwrap();
        assert_eq!(body.len(), count * size);
        assert_ne!(free(&bodies), (LIMITS.all_small, LIMITS.large));
        let last = body.slice(body.len() - 1..);
        drop(body);
        assert_ne!(free(&bodies), (LIMITS.all_small, LIMITS.large));
        drop(last);
        assert_eq!(free(&bodies), (LIMITS.all_small, LIMITS.large));
    }
}

#[tokio::test]
async fn a_small_body_that_is_read_takes_its_bytes_and_no_more_whatever_was_announced() {
    let bodies = bodies();
    for announced in [Announced::default(), of(4000), of(1 << 20)] {
        let body = bodies.read(announced, chunks(4, 1000)).await.unwrap();
        assert_eq!(free(&bodies), (LIMITS.all_small - 4000, LIMITS.large));
        drop(body);
    }
}

#[tokio::test]
async fn a_body_past_what_it_announced_takes_a_large_place_and_past_the_limit_is_refused() {
    let bodies = bodies();
    let body = bodies.read(of(10), chunks(2, 1000)).await.unwrap();
    assert_eq!(body.len(), 2000);
    assert_eq!(free(&bodies), (LIMITS.all_small, LIMITS.large - 1));
    for announced in [Announced::default(), of(10)] {
        let fault = bodies.read(announced, chunks(17, 1 << 20)).await;
        assert_eq!(fault, Err(Fault::TooLarge { most: LIMITS.body }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_body_waits_for_its_turn_and_gives_up_in_time_while_small_ones_go_on() {
    let bodies = bodies();
    let large = || bodies.read(Announced::default(), chunks(2, LIMITS.small));
    let mut held = Vec::new();
    for _ in 0..LIMITS.large {
        held.push(large().await.unwrap());
    }
    assert_eq!(large().await, Err(Fault::Crowded));
    let small = bodies.read(Announced::default(), chunks(1, LIMITS.small));
    assert!(small.await.is_ok());
    held.pop();
    assert!(large().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn sixty_four_clients_of_a_megabyte_each_are_all_answered() {
    let bodies = bodies();
    let clients = (0..64).map(|_| async {
        let chunks = slow(20, 50_000, Duration::from_millis(100));
        let body = bodies.read(of(1_000_000), chunks).await;
        body.map(|body| body.len())
    });
    for read in join_all(clients).await {
        assert_eq!(read, Ok(1_000_000));
    }
}

/// Reads one body after the other as far as it goes without anybody's help: what was read, what waits, and how many were
/// sent away.
macro_rules! settle {
    ($reads:expr) => {{
        let (mut held, mut waiting, mut refused) = (Vec::new(), Vec::new(), 0);
        for read in $reads {
            let mut read = Box::pin(read);
            match poll!(&mut read) {
                Poll::Ready(Ok(body)) => held.push(body),
                Poll::Ready(Err(fault)) => {
                    assert_eq!(fault, Fault::Crowded);
                    refused += 1;
                }
                Poll::Pending => waiting.push(read),
            }
        }
        (held, waiting, refused)
    }};
}

#[tokio::test]
async fn of_two_hundred_bodies_above_a_megabyte_those_beyond_the_waiting_are_sent_away_at_once() {
    let unannounced = Announced::default();
    // Who does not say how much comes is small until it is not, and waits with what came so far.
    for (announced, waits_with) in [(unannounced, LIMITS.small), (of(9 << 17), 0)] {
        let bodies = bodies();
        let reads = (0..200).map(|_| bodies.read(announced, chunks(9, 1 << 17)));
        let (mut held, waiting, refused) = settle!(reads);
        assert_eq!(
            (held.len(), waiting.len(), refused),
            (LIMITS.large, LIMITS.large_waiting, 180)
        );
        let in_small = LIMITS.all_small - LIMITS.large_waiting * waits_with;
        assert_eq!(free(&bodies), (in_small, 0));
        held.pop();
        let next = waiting.into_iter().next().unwrap();
        assert_eq!(next.await.unwrap().len(), 9 << 17);
    }
}

#[tokio::test]
async fn small_bodies_beyond_the_waiting_are_sent_away_at_once() {
    let bodies = bodies();
    let reads = (0..100).map(|_| async {
        let mut chunks = stuck(1);
        bodies.collect(Some(LIMITS.small), &mut chunks).await
    });
    let (_, waiting, refused) = settle!(reads);
    assert_eq!((waiting.len(), refused), (32 + LIMITS.small_waiting, 4));
    assert_eq!(free(&bodies), (0, LIMITS.large));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_in_the_middle_is_let_go() {
    let bodies = bodies();
    for announced in [Announced::default(), of(LIMITS.small), of(LIMITS.body)] {
        let read = bodies.read(announced, stuck(10)).await;
        assert_eq!(read, Err(Fault::Slow));
    }
    assert_eq!(free(&bodies), (LIMITS.all_small, LIMITS.large));
}

#[tokio::test(start_paused = true)]
async fn a_byte_now_and_then_keeps_no_place() {
    let bodies = bodies();
    let start = Instant::now();
    let trickle = slow(1000, 1, Duration::from_secs(29));
    assert_eq!(
        bodies.read(of(LIMITS.body), trickle).await,
        Err(Fault::Slow)
    );
    assert!(start.elapsed() < 2 * PAUSE, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_steadily_is_read_and_its_turn_is_not_counted() {
    let bodies = bodies();
    let mut held = Vec::new();
    for _ in 0..LIMITS.large {
        let large = bodies.read(Announced::default(), chunks(2, LIMITS.small));
        held.push(large.await.unwrap());
    }
    // At the end it is late by 26 seconds; with its turn it would be late by 53.
    let steady = slow(128, 128 << 10, Duration::from_millis(1200));
    let read = bodies.read(of(LIMITS.body), steady);
    let leave = async {
        tokio::time::sleep(TURN.mul_f64(0.9)).await;
        held.clear();
    };
    let (read, ()) = futures::join!(read, leave);
    assert_eq!(read.unwrap().len(), LIMITS.body);
}

#[tokio::test]
async fn who_announces_much_and_sends_nothing_takes_no_room() {
    let bodies = bodies();
    for length in [LIMITS.small, LIMITS.body] {
        let reads = (0..100).map(|_| bodies.read(of(length), stream::pending::<Chunk>()));
        let (_, waiting, _) = settle!(reads);
        assert_eq!(waiting.len(), 100);
        assert_eq!(free(&bodies), (LIMITS.all_small, LIMITS.large));
    }
}

#[tokio::test]
async fn a_refused_body_is_taken_in_unless_its_client_waits_to_be_asked_for_it() {
    let bodies = bodies();
    for (expects_continue, expected) in [(false, 17), (true, 0)] {
        let looked = Cell::new(0);
        let chunks = chunks(17, 1 << 20).inspect(|_| looked.set(looked.get() + 1));
        let announced = Announced {
            length: Some(17 << 20),
            expects_continue,
        };
        let read = bodies.read(announced, chunks).await;
        assert_eq!(read, Err(Fault::TooLarge { most: LIMITS.body }));
        assert_eq!(looked.get(), expected);
    }
}
