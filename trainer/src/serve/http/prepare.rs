//! Making a request ready on a thread where it holds up nobody: reading, rendering and tokenising megabytes takes seconds, and
//! `/health` must answer meanwhile.

use std::sync::Arc;

use prometheus::IntGauge;
use tokio::sync::Semaphore;

use super::Server;
use crate::serve::engine::Ask;
use crate::serve::reply::{Form, Reply};
use crate::serve::request_error::RequestError;

/// Requests that are made ready at a time: more would only take turns on the same processor, each with its text in memory.
const AT_A_TIME: usize = 4;

/// The queue of requests that are to be made ready.
#[derive(Debug)]
pub(in crate::serve) struct Preparation {
    places: Arc<Semaphore>,
}

impl Default for Preparation {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(AT_A_TIME)),
        }
    }
}

/// Counts a request for as long as it lives.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Server {
    /// Does `work` when its turn comes, away from the threads that answer requests.
    pub(super) async fn prepare<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> Result<T, RequestError> + Send + 'static,
    ) -> Result<T, RequestError> {
        let counted = Counted::new(&self.engine.metrics.preparing);
        let closed = |_| {
            RequestError::Internal("the queue of requests is closed; restart the server".to_owned())
        };
        let place = Arc::clone(&self.preparation.places);
        let place = place.acquire_owned().await.map_err(closed)?;
        let server = Arc::clone(self);
        // The place and the count are the work's, as its body is: a client that hangs up does not stop it.
        let work = move || {
            let (_counted, _place) = (counted, place);
            work(&server)
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| {
            RequestError::Internal(format!("reading the request failed: {error}"))
        })?
    }

    /// Refuses a text that is too long whatever its tokens are, before they are counted one by one.
    pub(super) fn check_length(&self, field: &str, text: &str) -> Result<(), RequestError> {
        let context = self.engine.limits.context;
        let most = context.saturating_mul(self.longest_token);
        if text.len() <= most {
            return Ok(());
        }
        Err(RequestError::field(
            field,
            format!(
                "`{field}` has {} bytes, which are more than the {context} tokens of the model's context: no token is longer than \
                 {} bytes; shorten it",
                text.len(),
                self.longest_token
            ),
        ))
    }

    /// Queues a prompt and says how its answer is read.
    pub(super) fn ask(&self, ask: Ask, form: Form) -> Result<Reply, RequestError> {
        let prompt = ask.prompt.clone();
        let events = self.engine.ask(ask)?;
        let tokenizer = Arc::clone(&self.engine.tokenizer);
        Reply::new(events, tokenizer, &prompt, form)
    }

    /// The tokens that end an answer and are no text of it, and those that are text of it, where `named` end it besides the
    /// model's own.
    pub(super) fn end_tokens(
        &self,
        own: bool,
        named: &[u32],
        in_text: bool,
    ) -> (Vec<u32>, Vec<u32>) {
        let mut silent = match own {
            true => self.engine.tokenizer.stop_ids().to_vec(),
            false => Vec::new(),
        };
        if in_text {
            silent.retain(|token| !named.contains(token));
            return (silent, named.to_vec());
        }
        silent.extend(named);
        (silent, Vec::new())
    }
}
