//! The HTTP side's handle of the worker: it keeps the names of adapters and the bound of the queue.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use finetune_dataset::tokenize::Tokenizer;
use finetune_numerics::architecture::ModelConfig;
use finetune_numerics::model::Base;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;

use super::adapters::{Adapters, Served};
use super::generation::{Event, Generation};
use super::key_value_memory::KeyValueMemory;
use super::metrics::Metrics;
use super::request_error::RequestError;
use super::sampling::Sampling;
use super::worker::{Command, Loaded, Worker};
use super::{Error, adapter_files};

/// Bytes that a number of an adapter takes: its value in fp32. What is not trained has no gradients.
const ADAPTER_NUMBER_BYTES: usize = 4;

/// What the engine is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The most tokens of prompt and answer together.
    pub(super) context: usize,
    /// Answers computed at a time.
    pub(super) running: usize,
    /// Requests that may wait besides.
    pub(super) waiting: usize,
    /// The most adapters.
    pub(super) adapters: usize,
    /// The greatest rank of an adapter.
    pub(super) rank: i64,
    /// Threads of the computation.
    pub(super) threads: usize,
}

/// A prompt and what to do with it.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) model: String,
    pub(super) prompt: Vec<u32>,
    pub(super) max_new_tokens: usize,
    pub(super) sampling: Sampling,
    pub(super) stop_at_end_tokens: bool,
    pub(super) stop_token_ids: Vec<u32>,
    pub(super) alternatives: Option<usize>,
    pub(super) score_prompt: bool,
}

/// The most tokens of prompt and answer together, and why there are no more. As text it stands behind "expected at most".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Context {
    /// Now.
    pub(super) tokens: usize,
    /// Once no adapter is loaded any more.
    pub(super) without_adapters: usize,
    /// Where it is the memory for keys and values that sets the limit: its bytes.
    memory: Option<u64>,
}

impl Context {
    /// Of a model that takes so many tokens.
    pub(super) fn new(model: usize, memory: &KeyValueMemory) -> Self {
        let tokens = memory.tokens();
        Self {
            tokens: model.min(tokens),
            without_adapters: model.min(memory.tokens_without_adapters()),
            memory: (tokens < model).then(|| memory.bytes()),
        }
    }
}

impl std::fmt::Display for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.memory {
            None => write!(f, "the model's {}", self.tokens),
            Some(bytes) => write!(
                f,
                "the {} that the server's memory for keys and values ({bytes} bytes, --kv-cache-memory) has room for",
                self.tokens
            ),
        }
    }
}

/// The model as the HTTP side sees it.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) config: ModelConfig,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) limits: Limits,
    pub(super) metrics: Metrics,
    memory: KeyValueMemory,
    adapters: Mutex<Adapters>,
    places: Arc<Semaphore>,
    commands: mpsc::Sender<Command>,
    worker: JoinHandle<()>,
}

impl Engine {
    /// Starts the worker over a loaded base, which clients call `name`.
    pub(super) fn start(
        name: &str,
        base: Base,
        tokenizer: Arc<Tokenizer>,
        limits: Limits,
        memory: KeyValueMemory,
        metrics: Metrics,
    ) -> Result<Self, Error> {
        let config = base.config().clone();
        let (commands, receiver) = mpsc::channel();
        let (stop_tokens, of_worker) = (tokenizer.stop_ids().to_vec(), metrics.clone());
        let memory_of_worker = memory.clone();
        let worker = std::thread::Builder::new()
            .name("model".to_owned())
            .spawn(move || {
                // OpenMP keeps this number for each thread that starts a computation.
                tch::set_num_threads(limits.threads as i32);
                Worker::new(
                    base,
                    stop_tokens,
                    limits.running,
                    memory_of_worker,
                    of_worker,
                )
                .run(&receiver);
            })?;
        Ok(Self {
            config,
            tokenizer,
            limits,
            metrics,
            memory,
            adapters: Mutex::new(Adapters::new(name.to_owned(), limits.adapters)),
            places: Arc::new(Semaphore::new(limits.running + limits.waiting)),
            commands,
            worker,
        })
    }

    /// Whether the model can still compute.
    pub(super) fn is_alive(&self) -> bool {
        !self.worker.is_finished()
    }

    /// The most tokens of prompt and answer together, now.
    pub(super) fn context(&self) -> Context {
        Context::new(self.limits.context, &self.memory)
    }

    /// Queues a prompt. What is too long, unknown or too much is refused here.
    pub(super) fn ask(&self, ask: Ask) -> Result<UnboundedReceiver<Event>, RequestError> {
        let adapter = self.names().find(&ask.model)?;
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let Limits {
                running, waiting, ..
            } = self.limits;
            RequestError::Full { running, waiting }
        })?;
        let (events, receiver) = tokio::sync::mpsc::unbounded_channel();
        self.send(Command::Generate(Box::new(Generation {
            prompt: ask.prompt,
            adapter,
            max_new_tokens: ask.max_new_tokens,
            sampling: ask.sampling,
            stop_at_end_tokens: ask.stop_at_end_tokens,
            stop_token_ids: ask.stop_token_ids,
            alternatives: ask.alternatives,
            score_prompt: ask.score_prompt,
            events,
            _place: place,
            since: Instant::now(),
        })))?;
        Ok(receiver)
    }

    /// Loads the PEFT folder at `folder` and serves it as `name`; `root` is what `/v1/models` says of its origin. Reads files: not for the
    /// threads that answer requests.
    pub(super) fn load(
        &self,
        name: &str,
        root: &str,
        folder: &Path,
        created: i64,
    ) -> Result<(), RequestError> {
        self.names().check(name)?;
        let lora = adapter_files::read(folder, &self.config, self.limits.rank)?;
        let mut names = self.names();
        // Another load of the same name may have won meanwhile.
        names.check(name)?;
        let bytes = lora.parameters().count() * ADAPTER_NUMBER_BYTES;
        let room = self.memory.take(bytes as u64)?;
        let id = names.next_id();
        self.send(Command::Load(id, Box::new(Loaded { lora, _room: room })))?;
        names.add(Served {
            name: name.to_owned(),
            root: root.to_owned(),
            created,
            id,
        });
        tracing::info!(name, root, "adapter loaded");
        Ok(())
    }

    /// Serves `name` no longer; answers that are running keep their weights to the end.
    pub(super) fn unload(&self, name: &str) -> Result<(), RequestError> {
        let id = self.names().remove(name)?;
        self.send(Command::Unload(id))?;
        tracing::info!(name, "adapter unloaded");
        Ok(())
    }

    /// Refuses a model that is not served.
    pub(super) fn check_model(&self, model: &str) -> Result<(), RequestError> {
        self.names().find(model).map(|_| ())
    }

    /// The adapters that are served.
    pub(super) fn adapters(&self) -> Vec<Served> {
        self.names().list().to_vec()
    }

    /// How many answers are running or waiting.
    pub(super) fn in_flight(&self) -> usize {
        self.limits.running + self.limits.waiting - self.places.available_permits()
    }

    /// Ends the worker, which gives up what is not finished. libtorch must not compute while the process ends.
    pub(super) async fn halt(&self) {
        // The worker may have ended already.
        let _ = self.commands.send(Command::Halt);
        while self.is_alive() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Adapters> {
        self.adapters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, command: Command) -> Result<(), RequestError> {
        self.commands
            .send(command)
            .map_err(|_| RequestError::no_worker())
    }
}

#[cfg(test)]
mod tests;
