//! Over connections in memory, by a clock that goes on only when everybody waits for it.

use axum::Router;
use axum::routing::get;
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

/// Longer than any wait of the server.
const LIMIT: Duration = Duration::from_hours(1);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: server\r\n\r\n";

/// A connection to a server that answers `/` at once and `/slow` in two pieces, after far longer than it may be idle; what is sent
/// ends it.
fn connected() -> (DuplexStream, watch::Sender<()>, JoinHandle<()>) {
    let slow = async || {
        let pieces = futures::stream::iter(["one", "two"]);
        let slowly = futures::StreamExt::then(pieces, async |piece| {
            sleep(4 * IDLE).await;
            Ok::<_, Infallible>(piece)
        });
        axum::body::Body::from_stream(Box::pin(slowly))
    };
    let router = Router::new()
        .route("/", get(async || "here"))
        .route("/slow", get(slow));
    let (client, server) = duplex(1 << 16);
    let (stop, stopped) = watch::channel(());
    let served = tokio::spawn(connection(server, router, stopped));
    (client, stop, served)
}

/// What comes until the connection is closed.
async fn rest(client: &mut DuplexStream) -> String {
    let mut bytes = Vec::new();
    // A fault closes it too.
    let _ = timeout(LIMIT, client.read_to_end(&mut bytes))
        .await
        .expect("the connection stays open");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An answer to [`REQUEST`].
async fn answer(client: &mut DuplexStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"here") {
        let read = timeout(LIMIT, client.read_buf(&mut bytes)).await.unwrap();
        assert!(read.unwrap() > 0, "the connection is closed");
    }
    String::from_utf8(bytes).unwrap()
}

#[rstest]
#[case::nothing(b"")]
#[case::as_http_2_begins(b"P")]
#[case::half_a_line(b"GET /")]
#[case::half_a_head(b"GET / HTTP/1.1\r\nx: ")]
#[case::no_request_of_http_2(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")]
#[case::half_a_second_head(b"GET / HTTP/1.1\r\nhost: server\r\n\r\nGET /")]
#[tokio::test(start_paused = true)]
async fn a_connection_that_sends_no_whole_head_is_closed(#[case] sent: &[u8]) {
    let (mut client, _stop, _served) = connected();
    client.write_all(sent).await.unwrap();
    rest(&mut client).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_take_longer_than_a_connection_may_be_idle() {
    let (mut client, _stop, _served) = connected();
    let request = b"GET /slow HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n";
    client.write_all(request).await.unwrap();
    let said = rest(&mut client).await;
    assert!(said.contains("one") && said.contains("two"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_idle_for_as_long_as_load_balancers_keep_it_answers_again() {
    let (mut client, _stop, _served) = connected();
    for _ in 0..3 {
        client.write_all(REQUEST).await.unwrap();
        assert!(answer(&mut client).await.starts_with("HTTP/1.1 200"));
        sleep(Duration::from_mins(1)).await;
    }
}

#[rstest]
#[case::idle(b"")]
#[case::half_a_head(b"GET / HTTP/1.1\r\nx: ")]
#[tokio::test(start_paused = true)]
async fn a_connection_without_a_request_does_not_hold_up_the_end(#[case] sent: &[u8]) {
    let (mut client, stop, served) = connected();
    client.write_all(REQUEST).await.unwrap();
    answer(&mut client).await;
    client.write_all(sent).await.unwrap();
    let before = Instant::now();
    stop.send_replace(());
    timeout(LIMIT, served).await.unwrap().unwrap();
    let after = before.elapsed();
    assert!(after < IDLE, "{after:?}");
    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_under_way_when_the_server_ends_is_sent_whole() {
    let (mut client, stop, served) = connected();
    let request = b"GET /slow HTTP/1.1\r\nhost: server\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut begun = [0; 12];
    timeout(LIMIT, client.read_exact(&mut begun))
        .await
        .unwrap()
        .unwrap();
    stop.send_replace(());
    let said = rest(&mut client).await;
    assert!(said.contains("one") && said.contains("two"), "{said}");
    timeout(LIMIT, served).await.unwrap().unwrap();
}
