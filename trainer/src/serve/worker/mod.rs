//! The one thread that owns the model: it computes a piece of every running answer in turn, so that a long answer delays
//! the others by one token, not by its length. A request that fails, fails alone. Answers take memory as they grow; when it is
//! short, the one that came last goes back to wait, and is computed again up to where it was, in the same steps as the first
//! time: other steps would give other sums, and so other tokens.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Instant;

use finetune_numerics::adapter::Lora;
use finetune_numerics::model::{Base, KeyValueCache, LogitRows};
use finetune_numerics::ops;
use tch::{Kind, Tensor};

use super::adapters::AdapterId;
use super::generation::{Event, FinishReason, Generation, TokenScore};
use super::key_value_memory::{AdapterRoom, KeyValueMemory};
use super::metrics::Metrics;
use super::request_error::RequestError;
use super::sampling::Sampler;
use super::schedule::{self, Pending};

/// Tokens of prompts that are computed in a turn. More would be little faster and would let other answers wait longer.
const CHUNK: usize = 256;

/// What the worker is asked to do. Requests keep their order: a request sent before an unload still has its adapter.
#[derive(Debug)]
pub(super) enum Command {
    /// Continue a prompt.
    Generate(Box<Generation>),
    /// Hold the weights of an adapter.
    Load(AdapterId, Box<Loaded>),
    /// Hold them no longer than running answers need them.
    Unload(AdapterId),
    /// Give up what is not finished and end.
    Halt,
}

/// The weights of an adapter, and the memory that they take.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) lora: Lora,
    pub(super) _room: AdapterRoom,
}

/// The model, its adapters and the answers in progress.
#[derive(Debug)]
pub(super) struct Worker {
    base: Base,
    adapters: HashMap<AdapterId, Rc<Loaded>>,
    /// In the order in which they came, all after those that run.
    waiting: VecDeque<Answer>,
    /// In the order in which they came.
    running: VecDeque<Answer>,
    most_running: usize,
    stop_tokens: Vec<u32>,
    memory: KeyValueMemory,
    metrics: Metrics,
    turns: u64,
    halted: bool,
}

impl Worker {
    /// A worker that computes at most `most_running` answers at a time.
    pub(super) fn new(
        base: Base,
        stop_tokens: Vec<u32>,
        most_running: usize,
        memory: KeyValueMemory,
        metrics: Metrics,
    ) -> Self {
        metrics.key_value_limit.set(memory.bytes() as i64);
        Self {
            base,
            adapters: HashMap::new(),
            waiting: VecDeque::new(),
            running: VecDeque::new(),
            most_running,
            stop_tokens,
            memory,
            metrics,
            turns: 0,
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
            answer.end(Event::Failed(RequestError::Stopping));
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Halt => self.halted = true,
            Command::Load(id, loaded) => {
                self.adapters.insert(id, Rc::new(*loaded));
            }
            Command::Unload(id) => {
                self.adapters.remove(&id);
            }
            Command::Generate(generation) => {
                let adapter = generation.adapter.map(|id| self.adapters.get(&id).cloned());
                if let Some(None) = adapter {
                    // A client that is gone needs no answer.
                    let _ = generation
                        .events
                        .send(Event::Failed(RequestError::Unloaded));
                    return;
                }
                self.waiting
                    .push_back(Answer::new(*generation, adapter.flatten(), &self.base));
            }
        }
    }

    /// Decides which answers run: those that came first, as many as the memory holds.
    fn admit(&mut self) {
        self.running.retain(Answer::is_wanted);
        self.waiting.retain(Answer::is_wanted);
        let count = loop {
            let lengths = self.running.iter().chain(&self.waiting);
            let lengths = lengths.map(|answer| answer.tokens.len());
            let count = schedule::may_run(lengths, self.memory.blocks(), self.most_running);
            if count > 0 || self.most_running == 0 {
                break count;
            }
            // The first is alone then, so that waiting would not help it.
            match self
                .running
                .pop_front()
                .or_else(|| self.waiting.pop_front())
            {
                Some(answer) => {
                    let bytes = self.memory.bytes();
                    answer.end(Event::Failed(RequestError::OutOfMemory(bytes)));
                }
                None => break 0,
            }
        };
        while self.running.len() > count
            && let Some(mut answer) = self.running.pop_back()
        {
            self.metrics.put_back.inc();
            answer.put_back(&self.base);
            self.waiting.push_front(answer);
        }
        while self.running.len() < count
            && let Some(mut answer) = self.waiting.pop_front()
        {
            answer.served = self.turns;
            self.running.push_back(answer);
        }
    }

    /// A token of every answer that has its prompt computed, and a chunk of the prompts.
    fn turn(&mut self) {
        self.turns += 1;
        self.admit();
        self.show();
        let Self {
            base,
            running,
            stop_tokens,
            metrics,
            turns,
            ..
        } = self;
        let pending: Vec<Pending> = running.iter().map(Answer::pending).collect();
        let mut shares = schedule::shares(&pending, CHUNK).into_iter();
        running.retain_mut(|answer| {
            let share = shares.next().unwrap_or(0);
            if share == 0 {
                return true;
            }
            answer.served = *turns;
            // libtorch reports some faults by panics of its Rust binding; one request must not end the server.
            let step = catch_unwind(AssertUnwindSafe(|| {
                answer.step(share, base, stop_tokens, metrics)
            }));
            let event = match step {
                Ok(Ok(None)) => return true,
                Ok(Ok(Some(reason))) => Event::Finished(reason),
                Ok(Err(error)) => {
                    tracing::warn!("an answer failed: {error}");
                    Event::Failed(error.into())
                }
                Err(_) => Event::Failed(RequestError::Internal(
                    "the model's computation failed; the server's log says more".to_owned(),
                )),
            };
            answer.end(event);
            false
        });
        self.show();
    }

    /// Sets the gauges of what runs, waits and takes memory.
    fn show(&self) {
        self.metrics.adapters.set(self.adapters.len() as i64);
        self.metrics.key_value_limit.set(self.memory.bytes() as i64);
        let bytes: i64 = self.running.iter().map(|answer| answer.cache.bytes()).sum();
        self.metrics.key_value_bytes.set(bytes);
        self.metrics.running.set(self.running.len() as i64);
        self.metrics.waiting.set(self.waiting.len() as i64);
    }
}

/// An answer in progress.
#[derive(Debug)]
struct Answer {
    generation: Generation,
    adapter: Option<Rc<Loaded>>,
    sampler: Sampler,
    /// Holds the first of `tokens`, never all.
    cache: KeyValueCache,
    /// The prompt, then the answer so far.
    tokens: Vec<u32>,
    /// The first of `tokens`, of which the cache knows: all, but in an answer that went back to wait and is not yet where it was.
    known: usize,
    /// The tokens of the prompt that are in the metrics.
    counted: usize,
    /// Scores of the prompt's tokens so far.
    prompt_scores: Vec<TokenScore>,
    generated: usize,
    /// The turn in which it was last computed or, before that, began to run.
    served: u64,
    last_at: Option<Instant>,
}

impl Answer {
    fn new(mut generation: Generation, adapter: Option<Rc<Loaded>>, base: &Base) -> Self {
        let sampler = Sampler::new(generation.sampling);
        let tokens = std::mem::take(&mut generation.prompt);
        Self {
            generation,
            adapter,
            sampler,
            cache: base.new_cache(tokens.len() as i64),
            known: tokens.len(),
            counted: 0,
            tokens,
            prompt_scores: Vec::new(),
            generated: 0,
            served: 0,
            last_at: None,
        }
    }

    /// Whether somebody still waits for it.
    fn is_wanted(&self) -> bool {
        !self.generation.events.is_closed()
    }

    fn pending(&self) -> Pending {
        Pending {
            left: self.known - self.computed(),
            served: self.served,
        }
    }

    /// The tokens that are in the cache.
    const fn computed(&self) -> usize {
        self.cache.length() as usize
    }

    fn prompt_length(&self) -> usize {
        self.tokens.len() - self.generated
    }

    /// Gives its memory back. It is computed from the start when its turn comes again: the prompt in chunks, what it has said token
    /// by token, so that it takes about as many turns as the first time.
    fn put_back(&mut self, base: &Base) {
        self.known = self.prompt_length();
        self.cache = base.new_cache(self.known as i64);
        self.prompt_scores.clear();
    }

    /// Has the next tokens, up to the first `length`, computed. Where frequencies change at this length, all are computed again.
    fn tell(&mut self, length: usize) {
        self.known = length;
        self.cache.prepare(length as i64);
    }

    fn end(&self, event: Event) {
        // A client that is gone needs no answer.
        let _ = self.generation.events.send(event);
    }

    /// Computes the next `share` tokens and, where they are the last, chooses another one, or takes the one that it chose the first
    /// time. Says why the answer is complete, if it is.
    fn step(
        &mut self,
        share: usize,
        base: &Base,
        stop_tokens: &[u32],
        metrics: &Metrics,
    ) -> Result<Option<FinishReason>, ops::Error> {
        let _no_gradients = tch::no_grad_guard();
        let logits = self.compute(share, base, metrics)?;
        if self.computed() < self.known {
            return Ok(None);
        }
        if self.known < self.tokens.len() {
            self.tell(self.known + 1);
            return Ok(None);
        }
        if self.generated == 0 {
            if self.generation.score_prompt {
                let _ = self
                    .generation
                    .events
                    .send(Event::Prompt(std::mem::take(&mut self.prompt_scores)));
            }
            if self.generation.max_new_tokens == 0 {
                return Ok(Some(FinishReason::Length));
            }
        }
        let finished = self.emit(&logits, stop_tokens, metrics)?;
        if finished.is_none() {
            self.tell(self.tokens.len());
        }
        Ok(finished)
    }

    /// Computes the next `share` tokens; returns the logits (1, V) after the last of them.
    fn compute(
        &mut self,
        share: usize,
        base: &Base,
        metrics: &Metrics,
    ) -> Result<Tensor, ops::Error> {
        let start = self.computed();
        let end = start + share;
        let tokens: Vec<i64> = self.tokens[start..end]
            .iter()
            .map(|token| i64::from(*token))
            .collect();
        let scored = self.generation.score_prompt && self.generated == 0;
        let rows = if scored {
            LogitRows::All
        } else {
            LogitRows::Last
        };
        let adapter = self.adapter.as_deref().map(|loaded| &loaded.lora);
        let logits = base.forward_cached(adapter, &tokens, &mut self.cache, rows)?; // (T or 1, V)
        if scored {
            self.score_prompt(&logits, start, end)?;
        }
        let of_prompt = end.min(self.prompt_length());
        if of_prompt > self.counted {
            metrics
                .prompt_tokens
                .inc_by((of_prompt - self.counted) as u64);
            self.counted = of_prompt;
        }
        Ok(logits.f_narrow(0, logits.size()[0] - 1, 1)?)
    }

    /// Scores the tokens after those from `start` to `end`, whose logits (T, V) these are.
    fn score_prompt(
        &mut self,
        logits: &Tensor,
        start: usize,
        end: usize,
    ) -> Result<(), ops::Error> {
        let prompt = &self.tokens;
        if start == 0 {
            self.prompt_scores.push(TokenScore {
                token: prompt[0],
                log_probability: None,
                alternatives: Vec::new(),
            });
        }
        let next = &prompt[start + 1..(end + 1).min(prompt.len())];
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
        self.tokens.push(token);
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

#[cfg(test)]
mod tests;
