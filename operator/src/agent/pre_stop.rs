//! How the pod's end is announced to the agent, and what it does about it: clients that keep their connections leave in
//! time for another pod.
//!
//! The kubelet runs the `preStop` hooks of all containers at once, and only then ends the engine. The engine's hook sleeps
//! for [`ENGINE_LINGERS`]; the agent's runs `operator pre-stop`, which tells the agent by a socket in the pod. A route
//! over HTTP would let any pod of the cluster send this one away.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::Response;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

/// How long the engine goes on answering after its pod's end was announced. In this time the pod leaves the Service, and
/// clients that keep their connections are told to make new ones.
pub const ENGINE_LINGERS: Duration = Duration::from_secs(5);
/// When connections that nobody has used since are closed: before the engine is gone, so that none is used then.
const CLOSE_IDLE_AFTER: Duration = Duration::from_secs(4);
/// The socket, in the agent's own scratch space.
pub const SOCKET: &str = "/tmp/finetune-pre-stop.sock";

/// The settings of `operator pre-stop`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The agent's socket.
    #[arg(long, env = "FINETUNE_PRE_STOP_SOCKET", default_value = SOCKET)]
    pub socket: PathBuf,
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
    let stream = UnixStream::connect(socket).await.map_err(explain)?;
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
        while let Ok((stream, _)) = listener.accept().await {
            if !self.announced.is_cancelled() {
                tracing::info!("the pod is about to end: clients are sent to other pods");
                self.announced.cancel();
                let leaving = self.leaving.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(CLOSE_IDLE_AFTER).await;
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
