//! `operator agent`: the sidecar of an inference pod. It keeps the adapters of `desired.json` loaded in the engine beside
//! it, proves each with its golden test, gates the pod's readiness and proxies names to versions.
//!
//! It holds no Kubernetes credentials, takes no commands, and never lets the base answer for an adapter.

mod body;
pub mod desired;
mod engine;
mod golden;
mod metrics;
mod plan;
pub mod pre_stop;
mod proxy;
mod ready;
mod reconcile;
mod record;
mod rename;
mod routes;
pub mod state;
mod step;
mod store;
mod weights;

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use finetune_artifacts::network::{self, bodies::Bodies};
use finetune_crds::names::{path, port};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The settings of `operator agent`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The file with the desired adapters.
    #[arg(long, env = "FINETUNE_DESIRED", default_value_os_t = PathBuf::from(path::DESIRED).join(path::DESIRED_FILE))]
    pub desired: PathBuf,
    /// The folder for adapter versions; the engine must see it under the same path.
    #[arg(long, env = "FINETUNE_ADAPTERS", default_value = path::ADAPTERS)]
    pub adapters: PathBuf,
    /// The folder of a mounted Secret with which versions are read. Absent: the environment, or the pod's own identity.
    #[arg(long, env = "FINETUNE_CREDENTIALS")]
    pub credentials: Option<PathBuf>,
    /// The name of that Secret, for messages.
    #[arg(long, env = "FINETUNE_CREDENTIALS_SECRET", requires = "credentials")]
    pub credentials_secret: Option<String>,
    /// The host of the engine, which listens on the port that the desired adapters name.
    #[arg(long, env = "FINETUNE_ENGINE_HOST", default_value = "127.0.0.1")]
    pub engine_host: String,
    /// Where the proxy listens; [::] is every address, of IPv4 too.
    #[arg(long, env = "FINETUNE_PROXY_LISTEN", default_value_t = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port::AGENT_PROXY)))]
    pub proxy_listen: SocketAddr,
    /// Where `/state`, `/readyz`, `/livez` and `/metrics` listen.
    #[arg(long, env = "FINETUNE_STATE_LISTEN", default_value_t = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port::AGENT_STATE)))]
    pub state_listen: SocketAddr,
    /// How long a version that no alias points to is kept for requests that it still answers.
    #[arg(long, env = "FINETUNE_DRAIN_SECONDS", default_value_t = 600)]
    pub drain_seconds: u64,
    /// Where `operator pre-stop` announces the end of the pod.
    #[arg(long, env = "FINETUNE_PRE_STOP_SOCKET", default_value = pre_stop::SOCKET)]
    pub pre_stop_socket: PathBuf,
}

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address is taken, or not this machine's.
    #[error(
        "failed to listen on {address}: {source}; no other container of the pod may use the port"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// The client for the engine could not be made.
    #[error("failed to make the client for the engine: {0}")]
    Client(#[from] reqwest::Error),
    /// The metrics could not be registered.
    #[error("failed to register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Runs the agent until `shutdown` is cancelled, then lets requests under way end.
pub async fn run(arguments: Arguments, shutdown: CancellationToken) -> Result<(), Error> {
    let client = proxy::client()?;
    let metrics = metrics::Metrics::new()?;
    let routes = Arc::new(routes::Routes::default());
    let nudge = Arc::new(Notify::new());
    let (proxy_listen, state_listen) = (arguments.proxy_listen, arguments.state_listen);
    let ending = pre_stop::Ending::new(&shutdown);
    let leaving = ending.leaving.clone();
    let pre_stop_socket = arguments.pre_stop_socket.clone();
    let (reconciler, report) = reconcile::Reconciler::new(
        arguments,
        client.clone(),
        routes.clone(),
        metrics.clone(),
        nudge.clone(),
    );
    let proxy = proxy::router(proxy::Proxy {
        routes,
        client,
        bodies: Bodies::new(body::LIMITS),
        metrics: metrics.clone(),
        nudge,
    })
    .layer(axum::middleware::from_fn_with_state(
        ending.clone(),
        pre_stop::close_connections,
    ));
    let port = ready::router(ready::Port { report, metrics });
    let servers = async {
        tokio::try_join!(
            serve(proxy_listen, proxy, leaving),
            serve(state_listen, port, shutdown.clone()),
        )
    };
    tokio::select! {
        result = servers => result.map(|_| ()),
        () = reconciler.run() => Ok(()),
        // It ends only where there is no socket, and then the others go on.
        never = async { ending.listen(&pre_stop_socket).await; std::future::pending().await } => never,
    }
}

async fn serve(
    address: SocketAddr,
    router: axum::Router,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let listener = network::listen(address)
        .await
        .map_err(|source| Error::Listen { address, source })?;
    tracing::info!(%address, "listening");
    network::serve(listener, router, shutdown.cancelled_owned()).await;
    Ok(())
}
