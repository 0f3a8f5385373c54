//! How the pod's end is announced to the agent, and what it does about it: clients that keep their connections leave in
//! time for another pod.
//!
//! The kubelet runs the `preStop` hooks of all containers at once, and ends the engine when its own is over. The engine's is a
//! pause; the agent's runs `operator pre-stop`, which tells the agent by a socket in the pod how long that pause is. A
//! route over HTTP would let any pod of the cluster send this one away.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long before the engine is told to stop the last connections are closed, so that none is used then.
const MARGIN: Duration = Duration::from_secs(1);
/// How long the announcement may take.
const ANNOUNCEMENT: Duration = Duration::from_secs(1);
/// The socket, in the agent's own scratch space.
pub const SOCKET: &str = "/tmp/finetune-pre-stop.sock";

/// The settings of `operator pre-stop`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The agent's socket.
    #[arg(long, env = "FINETUNE_PRE_STOP_SOCKET", default_value = SOCKET)]
    pub socket: PathBuf,
    /// How long the engine goes on answering from now, in seconds. In this time the pod leaves the Service, and clients that
    /// keep their connections are told to make new ones.
    #[arg(long, env = "FINETUNE_PRE_STOP_PAUSE_SECONDS")]
    pub pause_seconds: u32,
}

/// When connections that nobody has used since are closed.
fn close_idle_after(pause: Duration) -> Duration {
    pause.saturating_sub(MARGIN.min(pause / 2))
}

/// Tells the agent of this pod that the pod is about to end.
pub async fn announce(arguments: Arguments) -> Result<(), std::io::Error> {
    let socket = &arguments.socket;
    let explain = |error: std::io::Error| {
        let message = format!(
            "failed to reach the agent at {}: {error}; run it in the agent's container",
            socket.display()
        );
        std::io::Error::new(error.kind(), message)
    };
    let mut stream = UnixStream::connect(socket).await.map_err(explain)?;
    let pause = arguments.pause_seconds;
    stream.write_u32(pause).await.map_err(explain)?;
    // The agent closes it once it knows.
    stream.readable().await.map_err(explain)
}

/// The two moments of a pod's end.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    /// The end was announced: answers close their connections.
    announced: CancellationToken,
    /// The engine is about to go: idle connections are closed, and no new ones taken.
    pub leaving: CancellationToken,
}

impl Ending {
    /// `leaving` is also cancelled by `shutdown`.
    pub(crate) fn new(shutdown: &CancellationToken) -> Self {
        Self {
            announced: CancellationToken::new(),
            leaving: shutdown.child_token(),
        }
    }

    /// Waits for the announcement. Without its socket an agent does all else that it should.
    pub(crate) async fn listen(self, socket: &Path) {
        // What an agent before this one has left: a restart keeps the volume.
        let _ = std::fs::remove_file(socket);
        let listener = match UnixListener::bind(socket) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(socket = %socket.display(), %error, "the pod's end cannot be announced");
                return;
            }
        };
        while let Ok((mut stream, _)) = listener.accept().await {
            // Whoever comes to the socket announces the end; one that does not say how long the pause is leaves no time.
            let pause = timeout(ANNOUNCEMENT, stream.read_u32()).await;
            let pause = pause.ok().and_then(Result::ok).unwrap_or(0);
            if !self.announced.is_cancelled() {
                tracing::info!(
                    pause_seconds = pause,
                    "the pod is about to end: clients are sent to other pods"
                );
                self.announced.cancel();
                let leaving = self.leaving.clone();
                let closing = close_idle_after(Duration::from_secs(pause.into()));
                tokio::spawn(async move {
                    tokio::time::sleep(closing).await;
                    leaving.cancel();
                });
            }
            drop(stream);
        }
    }
}

/// Once the end was announced, each answer is the last one on its connection. HTTP/2 has no such header; there the server
/// says goodbye when it leaves.
pub(crate) async fn close_connections(
    State(ending): State<Ending>,
    request: Request,
    next: Next,
) -> Response {
    let is_http_1 = request.version() <= Version::HTTP_11;
    let mut response = next.run(request).await;
    if is_http_1 && ending.announced.is_cancelled() {
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case(5, 4000)]
    #[case(2, 1000)]
    #[case(1, 500)]
    #[case(0, 0)]
    fn idle_connections_are_closed_before_the_engine_is_told_to_stop(
        #[case] pause: u64,
        #[case] milliseconds: u64,
    ) {
        let closing = close_idle_after(Duration::from_secs(pause));
        assert_eq!(closing, Duration::from_millis(milliseconds));
    }

    /// By a clock that goes on only when everybody waits for it.
    #[tokio::test(start_paused = true)]
    async fn connections_are_closed_when_the_announced_pause_is_about_to_end() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("pre-stop.sock");
        let ending = Ending::new(&CancellationToken::new());
        let leaving = ending.leaving.clone();
        let start = tokio::time::Instant::now();
        let listener = {
            let socket = socket.clone();
            tokio::spawn(async move { ending.listen(&socket).await })
        };
        let pause = Duration::from_hours(1);
        // The socket is not there at once.
        while announce(Arguments {
            socket: socket.clone(),
            pause_seconds: pause.as_secs() as u32,
        })
        .await
        .is_err()
        {
            tokio::task::yield_now().await;
        }
        leaving.cancelled().await;
        let closed = start.elapsed();
        assert!(
            closed.abs_diff(pause) < Duration::from_mins(1),
            "{closed:?}"
        );
        listener.abort();
    }
}
