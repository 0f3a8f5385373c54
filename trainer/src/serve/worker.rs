//! The one thread that owns the model: it computes a piece of every running answer in turn, so that a long answer delays
//! the others by one token, not by its length. A request that fails, fails alone.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Instant;

use tch::{Kind, Tensor};

use super::adapters::AdapterId;
use super::api::ApiError;
use super::generation::{Event, FinishReason, Generation, TokenScore};
use super::metrics::Metrics;
use super::sampling::Sampler;
use crate::method::Lora;
use crate::model::{Base, KeyValueCache, LogitRows};
use crate::ops;

/// Tokens of a prompt that are computed in one go. More would be little faster and would let other answers wait longer.
const CHUNK: usize = 256;

/// What the worker is asked to do. Requests keep their order: a request sent before an unload still has its adapter.
#[derive(Debug)]
pub(super) enum Command {
    /// Continue a prompt.
    Generate(Box<Generation>),
    /// Hold the weights of an adapter.
    Load(AdapterId, Box<Lora>),
    /// Hold them no longer than running answers need them.
    Unload(AdapterId),
    /// Give up what is not finished and end.
    Halt,
}

/// The model, its adapters and the answers in progress.
#[derive(Debug)]
pub(super) struct Worker {
    base: Base,
    adapters: HashMap<AdapterId, Rc<Lora>>,
    waiting: VecDeque<Answer>,
    running: Vec<Answer>,
    most_running: usize,
    stop_tokens: Vec<u32>,
    metrics: Metrics,
    halted: bool,
}

impl Worker {
    /// A worker that computes at most `most_running` answers at a time.
    pub(super) fn new(
        base: Base,
        stop_tokens: Vec<u32>,
        most_running: usize,
        metrics: Metrics,
    ) -> Self {
        Self {
            base,
            adapters: HashMap::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            most_running,
            stop_tokens,
            metrics,
            halted: false,
        }
    }

    /// Works until it is told to halt, or nobody can ask any more and all answers are given.
    pub(super) fn run(mut self, commands: &mpsc::Receiver<Command>) {
        while !self.halted {
            if self.running.is_empty() && self.waiting.is_empty() {
                match commands.recv() {
                    Ok(command) => self.take(command),
                    Err(mpsc::RecvError) => return,
                }
            }
            while let Ok(command) = commands.try_recv() {
                self.take(command);
            }
            self.turn();
        }
        self.give_up();
    }

    fn give_up(self) {
        for answer in self.running.into_iter().chain(self.waiting) {
            // A client that is gone needs no answer.
            let _ = answer
                .generation
                .events
                .send(Event::Failed(ApiError::unavailable(
                    "the server is stopping",
                )));
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Halt => self.halted = true,
            Command::Load(id, lora) => {
                self.adapters.insert(id, Rc::new(*lora));
                self.metrics.adapters.set(self.adapters.len() as i64);
            }
            Command::Unload(id) => {
                self.adapters.remove(&id);
                self.metrics.adapters.set(self.adapters.len() as i64);
            }
            Command::Generate(generation) => {
                let adapter = generation.adapter.map(|id| self.adapters.get(&id).cloned());
                if let Some(None) = adapter {
                    let gone = "the adapter was unloaded before its turn came";
                    let gone = ApiError::not_found(Some("model"), gone);
                    // A client that is gone needs no answer.
                    let _ = generation.events.send(Event::Failed(gone));
                    return;
                }
                self.waiting
                    .push_back(Answer::new(*generation, adapter.flatten()));
            }
        }
    }

    /// One step of every running answer.
    fn turn(&mut self) {
        self.waiting.retain(Answer::is_wanted);
        while self.running.len() < self.most_running
            && let Some(answer) = self.waiting.pop_front()
        {
            self.running.push(answer);
        }
        self.metrics.running.set(self.running.len() as i64);
        self.metrics.waiting.set(self.waiting.len() as i64);
        let Self {
            base,
            running,
            stop_tokens,
            metrics,
            ..
        } = self;
        running.retain_mut(|answer| {
            if !answer.is_wanted() {
                return false;
            }
            // libtorch reports some faults by panics of its Rust binding; one request must not end the server.
            let step = catch_unwind(AssertUnwindSafe(|| answer.step(base, stop_tokens, metrics)));
            let event = match step {
                Ok(Ok(None)) => return true,
                Ok(Ok(Some(reason))) => Event::Finished(reason),
                Ok(Err(error)) => {
                    tracing::warn!("an answer failed: {error}");
                    Event::Failed(ApiError::internal(error.to_string()))
                }
                Err(_) => Event::Failed(ApiError::internal(
                    "the model's computation failed; the server's log says more",
                )),
            };
            // A client that is gone needs no answer.
            let _ = answer.generation.events.send(event);
            false
        });
        self.metrics.running.set(self.running.len() as i64);
    }
}

/// An answer in progress.
#[derive(Debug)]
struct Answer {
    generation: Generation,
    adapter: Option<Rc<Lora>>,
    sampler: Sampler,
    cache: Option<KeyValueCache>,
    /// Tokens of the prompt that are in the cache.
    computed: usize,
    /// Scores of the prompt's tokens so far.
    prompt_scores: Vec<TokenScore>,
    generated: usize,
    last: u32,
    last_at: Option<Instant>,
}

impl Answer {
    fn new(generation: Generation, adapter: Option<Rc<Lora>>) -> Self {
        let sampler = Sampler::new(generation.sampling);
        Self {
            generation,
            adapter,
            sampler,
            cache: None,
            computed: 0,
            prompt_scores: Vec::new(),
            generated: 0,
            last: 0,
            last_at: None,
        }
    }

    /// Whether somebody still waits for it.
    fn is_wanted(&self) -> bool {
        !self.generation.events.is_closed()
    }

    /// The next part of the prompt, or the next token. Says why the answer is complete, if it is.
    fn step(
        &mut self,
        base: &Base,
        stop_tokens: &[u32],
        metrics: &Metrics,
    ) -> Result<Option<FinishReason>, ops::Error> {
        let _no_gradients = tch::no_grad_guard();
        let logits = if self.computed < self.generation.prompt.len() {
            let row = self.prefill(base, metrics)?;
            if self.computed < self.generation.prompt.len() {
                return Ok(None);
            }
            if self.generation.score_prompt {
                let _ = self
                    .generation
                    .events
                    .send(Event::Prompt(std::mem::take(&mut self.prompt_scores)));
            }
            if self.generation.max_new_tokens == 0 {
                return Ok(Some(FinishReason::Length));
            }
            row
        } else {
            self.forward(base, &[i64::from(self.last)], LogitRows::Last)?
        };
        self.emit(&logits, stop_tokens, metrics)
    }

    /// Computes the next chunk of the prompt; returns the logits (1, V) after its last token.
    fn prefill(&mut self, base: &Base, metrics: &Metrics) -> Result<Tensor, ops::Error> {
        let end = (self.computed + CHUNK).min(self.generation.prompt.len());
        let tokens: Vec<i64> = self.generation.prompt[self.computed..end]
            .iter()
            .map(|token| i64::from(*token))
            .collect();
        let rows = if self.generation.score_prompt {
            LogitRows::All
        } else {
            LogitRows::Last
        };
        let logits = self.forward(base, &tokens, rows)?; // (T or 1, V)
        if self.generation.score_prompt {
            self.score_prompt(&logits, end)?;
        }
        metrics.prompt_tokens.inc_by(tokens.len() as u64);
        self.computed = end;
        Ok(logits.f_narrow(0, logits.size()[0] - 1, 1)?)
    }

    fn score_prompt(&mut self, logits: &Tensor, end: usize) -> Result<(), ops::Error> {
        let prompt = &self.generation.prompt;
        if self.computed == 0 {
            self.prompt_scores.push(TokenScore {
                token: prompt[0],
                log_probability: None,
                alternatives: Vec::new(),
            });
        }
        let next = &prompt[self.computed + 1..(end + 1).min(prompt.len())];
        let count = self.generation.alternatives.unwrap_or(0);
        // Row by row, so that no second copy of (T, V) numbers is held.
        for (row, token) in next.iter().enumerate() {
            self.prompt_scores
                .push(score(&logits.f_narrow(0, row as i64, 1)?, *token, count)?);
        }
        Ok(())
    }

    /// Chooses a token from logits (1, V) and sends it.
    fn emit(
        &mut self,
        logits: &Tensor,
        stop_tokens: &[u32],
        metrics: &Metrics,
    ) -> Result<Option<FinishReason>, ops::Error> {
        let row: Vec<f32> = Vec::try_from(logits.f_reshape([-1])?)?;
        let token = self.sampler.choose(&row);
        let scored = match self.generation.alternatives {
            Some(count) => score(logits, token, count)?,
            None => TokenScore {
                token,
                log_probability: None,
                alternatives: Vec::new(),
            },
        };
        self.last = token;
        self.generated += 1;
        metrics.generated_tokens.inc();
        match self.last_at {
            None => metrics
                .first_token_seconds
                .observe(self.generation.since.elapsed().as_secs_f64()),
            Some(last_at) => metrics
                .token_seconds
                .observe(last_at.elapsed().as_secs_f64()),
        }
        self.last_at = Some(Instant::now());
        // A client that is gone is noticed at the next step.
        let _ = self.generation.events.send(Event::Token(scored));
        let ends = self.generation.stop_at_end_tokens && stop_tokens.contains(&token);
        if ends || self.generation.stop_token_ids.contains(&token) {
            return Ok(Some(FinishReason::Stop));
        }
        Ok((self.generated >= self.generation.max_new_tokens).then_some(FinishReason::Length))
    }

    fn forward(
        &mut self,
        base: &Base,
        tokens: &[i64],
        rows: LogitRows,
    ) -> Result<Tensor, ops::Error> {
        let cache = match &mut self.cache {
            Some(cache) => cache,
            none => {
                let capacity = self.generation.prompt.len() + self.generation.max_new_tokens;
                none.insert(base.new_cache(capacity as i64)?)
            }
        };
        base.forward_cached(self.adapter.as_deref(), tokens, cache, rows)
    }
}

/// The log-probability of `token` and of the `count` likeliest tokens under logits (1, V).
fn score(logits: &Tensor, token: u32, count: usize) -> Result<TokenScore, ops::Error> {
    let logs = logits.f_log_softmax(-1, Kind::Float)?;
    let log_probability = Some(logs.f_double_value(&[0, i64::from(token)])?);
    let mut alternatives = Vec::new();
    if count > 0 {
        let count = (count as i64).min(logs.size()[1]);
        let (values, tokens) = logs.f_topk(count, -1, true, true)?;
        for place in 0..count {
            let token = tokens.f_int64_value(&[0, place])?;
            alternatives.push((token as u32, values.f_double_value(&[0, place])?));
        }
    }
    Ok(TokenScore {
        token,
        log_probability,
        alternatives,
    })
}
