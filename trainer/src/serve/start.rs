//! The story of a server: fetch, load, listen, and on a signal finish what is running.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use finetune_artifacts::cache::Cache;
use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::network::{self, bodies::Bodies};
use finetune_crds::contract::layout;
use finetune_crds::fine_tune_job;
use finetune_numerics::model::{Base, LoadOptions, Storage};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Error;
use super::engine::{Engine, Limits};
use super::http::{BODIES, Preparation, Server, router};
use super::key_value_memory::{Budget, KeyValueMemory};
use super::memory_limit::{held, memory_limit};
use super::metrics::Metrics;
use super::options::{ComputeType, Options};
use super::request_error::RequestError;
use super::tools::ToolCalls;
use crate::base::{BaseModelFiles, Fetch};
use crate::stop::Stop;
use crate::{clock, device};

/// A server that listens.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    server: Arc<Server>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Fetches and loads the base and the adapters, then listens. Until then connections are refused, so that nothing waits
/// for an answer that is not near.
pub async fn start(options: &Options) -> Result<Running, Error> {
    let credentials = match &options.credentials {
        Some(folder) => Credentials::from_folder(folder)?,
        None => Credentials::from_environment(),
    };
    let cache = Cache::new(&options.cache.clone().unwrap_or_else(default_cache));
    let threads = options
        .threads
        .map_or_else(finetune_numerics::device::threads, |threads| {
            usize::from(threads.get())
        });
    tch::set_num_threads(threads as i32);
    let (files, base) = load_base(options, &credentials, &cache).await?;
    let made_for = files.config().max_position_embeddings as usize;
    let memory = key_value_memory(options, &base)?;
    let context = options
        .max_model_len
        .map_or(made_for, |most| most.min(made_for));
    if memory.tokens() < context {
        tracing::warn!(
            "prompt and answer have room for {} tokens, not {context}: keys and values may take {} bytes (--kv-cache-memory)",
            memory.tokens(),
            memory.bytes()
        );
    }
    let limits = Limits {
        context,
        running: options.max_running,
        waiting: options.max_waiting,
        adapters: options.max_adapters,
        rank: options.max_adapter_rank as i64,
        threads,
    };
    let name = options
        .served_model_name
        .clone()
        .unwrap_or_else(|| last_part(&options.model));
    let engine = Engine::start(
        &name,
        base,
        Arc::new(files.into_tokenizer()),
        limits,
        memory,
        Metrics::new()?,
    )?;
    let now = || clock::now().as_second();
    for (name, uri) in options.adapters.iter().flat_map(|named| &named.0) {
        let folder = fetch_adapter(name, uri, &credentials, &cache).await?;
        let message = |error: RequestError| Error::Adapter {
            name: name.clone(),
            uri: uri.clone(),
            message: error.to_string(),
        };
        engine.load(name, uri, &folder, now()).map_err(message)?;
    }
    let root = options.model.clone();
    let tool_calls = ToolCalls::choose(options.tool_call_parser, &engine.tokenizer);
    let longest_token = engine.tokenizer.longest_token();
    let server = Arc::new(Server {
        engine,
        name,
        root,
        started: now(),
        now,
        tool_calls,
        longest_token,
        bodies: Bodies::new(BODIES),
        preparation: Preparation::default(),
        draining: AtomicBool::new(false),
    });
    listen(options, server).await
}

async fn listen(options: &Options, server: Arc<Server>) -> Result<Running, Error> {
    let failed = |source| Error::Listen {
        host: options.host.clone(),
        port: options.port,
        source,
    };
    let listener = network::listen_on(&options.host, options.port)
        .await
        .map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async {
        // A dropped sender means that nobody can stop the server any more: the same as a wish to stop.
        let _ = stopped.await;
    };
    let task = tokio::spawn(network::serve(
        listener,
        router(Arc::clone(&server)),
        stopped,
    ));
    tracing::info!("serving {} on http://{address}", server.name);
    Ok(Running {
        address,
        server,
        stop,
        task,
    })
}

impl Running {
    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts no more requests and waits until those that are running have their answers, at most `grace`.
    pub async fn stop(self, grace: Duration) {
        self.server.draining.store(true, Ordering::Relaxed);
        tracing::info!(
            "stopping; {} answers are not complete",
            self.server.engine.in_flight()
        );
        // The receiver is gone if the server has ended by itself.
        let _ = self.stop.send(());
        let mut task = self.task;
        if tokio::time::timeout(grace, &mut task).await.is_err() {
            tracing::warn!(
                "{} answers were cut after {} s",
                self.server.engine.in_flight(),
                grace.as_secs()
            );
            self.server.engine.halt().await;
            // What was cut gets an error; a client that does not read it must not hold up the end.
            let _ = tokio::time::timeout(Duration::from_secs(1), &mut task).await;
        }
        self.server.engine.halt().await;
    }
}

/// Serves until the process is told to stop. While it still loads, nobody waits for an answer, and it is left at once.
pub async fn serve(options: &Options, stop: &Stop) -> Result<(), Error> {
    let running = start(options).await?;
    stop.finish_first();
    stop.told().await;
    running
        .stop(Duration::from_secs(options.shutdown_grace))
        .await;
    Ok(())
}

async fn load_base(
    options: &Options,
    credentials: &Credentials,
    cache: &Cache,
) -> Result<(BaseModelFiles, Base), Error> {
    let uri = options.model.clone();
    let unreadable = |source| Error::Base {
        uri: uri.clone(),
        source: Box::new(source),
    };
    let files = BaseModelFiles::fetch(&absolute(&uri)?, credentials, cache, Fetch::Whole)
        .await
        .map_err(unreadable)?;
    let compute = device::serving_kind(match options.compute_type {
        ComputeType::Auto => fine_tune_job::ComputeType::Auto,
        ComputeType::Float32 => fine_tune_job::ComputeType::Float32,
        ComputeType::Bfloat16 => fine_tune_job::ComputeType::BFloat16,
    });
    let weights = files.weights().map_err(unreadable)?;
    let base = Base::load(
        files.config(),
        weights.as_ref(),
        &LoadOptions {
            compute,
            storage: Storage::Frozen,
        },
    );
    let base = base.map_err(|source| Error::Model {
        uri: uri.clone(),
        source,
    })?;
    tracing::info!(
        "loaded {uri} in {}",
        finetune_numerics::device::kind_name(compute)
    );
    Ok((files, base))
}

/// The memory for keys and values: what the options say, or half of what the base leaves.
fn key_value_memory(options: &Options, base: &Base) -> Result<KeyValueMemory, Error> {
    let (config, kind) = (base.config(), base.compute());
    let budget = match options.kv_cache_memory {
        Some(bytes) => Budget::Fixed(bytes),
        None => Budget::Rest {
            memory: memory_limit().ok_or_else(|| {
                let message =
                    "the system does not say how much memory there is, expected a number of bytes";
                Error::KeyValueMemory(message.to_owned())
            })?,
            // Measured, for a base may be held in 4 bits.
            base: held().unwrap_or(config.parameters() as u64 * kind.elt_size_in_bytes() as u64),
        },
    };
    KeyValueMemory::new(budget, config.key_value_bytes(kind) as u64)
}

/// The adapter's folder on this machine.
async fn fetch_adapter(
    name: &str,
    uri: &str,
    credentials: &Credentials,
    cache: &Cache,
) -> Result<PathBuf, Error> {
    let wanted = |path: &str| path == layout::ADAPTER_CONFIG || path == layout::ADAPTER_WEIGHTS;
    let folder = format!("{}/", absolute(uri)?.trim_end_matches('/'));
    let fetched = cache.directory(&folder, credentials, wanted).await;
    fetched.map_err(|source| Error::Fetch {
        name: name.to_owned(),
        uri: uri.to_owned(),
        source: Box::new(source),
    })
}

/// A URI; what is none is a path on this machine.
fn absolute(uri: &str) -> Result<String, Error> {
    if uri.contains("://") {
        return Ok(uri.to_owned());
    }
    let path = std::path::absolute(uri)?;
    let slash = if path.is_dir() && !uri.ends_with('/') {
        "/"
    } else {
        ""
    };
    Ok(format!("file://{}{slash}", path.display()))
}

/// The last part of a URI's path.
fn last_part(uri: &str) -> String {
    let uri = uri.trim_end_matches('/');
    uri.rsplit('/').next().unwrap_or(uri).to_owned()
}

/// The user's cache, or the system's temporary folder where there is none or it cannot be written to, as in a container.
fn default_cache() -> PathBuf {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let of_user = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let of_user = of_user
        .map(|folder| folder.join("finetune"))
        .filter(|folder| std::fs::create_dir_all(folder).is_ok());
    of_user.unwrap_or_else(|| std::env::temp_dir().join("finetune"))
}
