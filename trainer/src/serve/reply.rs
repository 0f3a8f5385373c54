//! An answer on its way to the client: tokens from the worker become pieces of text.
//!
//! Streams and whole answers are made of the same pieces, so that they cannot differ.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use super::api::{ApiError, Usage};
use super::generation::{Event, FinishReason, TokenScore};
use super::text::{IncrementalText, StopStrings};
use crate::tokenize::Tokenizer;

/// A part of an answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Piece {
    /// The next characters.
    pub(super) text: String,
    /// The tokens that came with them.
    pub(super) scores: Vec<TokenScore>,
    /// In the last piece: why there are no more.
    pub(super) finish: Option<FinishReason>,
}

/// An answer on its way. Dropping it tells the worker that nobody waits any more.
#[derive(Debug)]
pub(super) struct Reply {
    events: UnboundedReceiver<Event>,
    tokenizer: Arc<Tokenizer>,
    text: IncrementalText,
    stops: StopStrings,
    /// The prompt's text, to be given out before the answer's.
    echo: Option<String>,
    /// Tokens whose text is still held back.
    scores: Vec<TokenScore>,
    prompt_tokens: usize,
    completion_tokens: usize,
    finished: bool,
}

impl Reply {
    /// The answer to `prompt`. With `echo` it begins with the prompt itself.
    pub(super) fn new(
        events: UnboundedReceiver<Event>,
        tokenizer: Arc<Tokenizer>,
        prompt: &[u32],
        stops: Vec<String>,
        echo: bool,
    ) -> Result<Self, ApiError> {
        let failed = |error: crate::tokenize::Error| ApiError::internal(error.to_string());
        let text = IncrementalText::new(&tokenizer, prompt).map_err(failed)?;
        let echo = echo
            .then(|| tokenizer.decode(prompt, false))
            .transpose()
            .map_err(failed)?;
        Ok(Self {
            events,
            tokenizer,
            text,
            stops: StopStrings::new(stops),
            echo,
            scores: Vec::new(),
            prompt_tokens: prompt.len(),
            completion_tokens: 0,
            finished: false,
        })
    }

    /// The next piece; nothing after the last one or after an error.
    pub(super) async fn next(&mut self) -> Option<Result<Piece, ApiError>> {
        while !self.finished {
            let piece = match self.events.recv().await {
                None => Err(ApiError::internal(
                    "the model's thread has ended; restart the server",
                )),
                Some(Event::Failed(error)) => Err(error),
                Some(Event::Prompt(scores)) => {
                    self.scores.extend(scores);
                    continue;
                }
                Some(Event::Token(score)) => self.token(score),
                Some(Event::Finished(reason)) => self.finish(reason),
            };
            match piece {
                Ok(piece) if piece.text.is_empty() && piece.finish.is_none() => {
                    self.scores = piece.scores;
                }
                Ok(piece) => {
                    self.finished = piece.finish.is_some();
                    return Some(Ok(piece));
                }
                Err(error) => {
                    self.finished = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    /// All pieces as one.
    pub(super) async fn collect(&mut self) -> Result<Piece, ApiError> {
        let mut whole = Piece::default();
        while let Some(piece) = self.next().await {
            let piece = piece?;
            whole.text.push_str(&piece.text);
            whole.scores.extend(piece.scores);
            whole.finish = piece.finish;
        }
        Ok(whole)
    }

    /// The tokens so far.
    pub(super) const fn usage(&self) -> Usage {
        Usage::new(self.prompt_tokens, self.completion_tokens)
    }

    fn token(&mut self, score: TokenScore) -> Result<Piece, ApiError> {
        let new = self.text.push(&self.tokenizer, score.token);
        let new = new.map_err(|error| ApiError::internal(error.to_string()))?;
        self.completion_tokens += 1;
        self.scores.push(score);
        let (text, stopped) = self.stops.push(&new);
        Ok(self.piece(&text, stopped.then_some(FinishReason::Stop)))
    }

    fn finish(&mut self, reason: FinishReason) -> Result<Piece, ApiError> {
        let rest = self.text.finish(&self.tokenizer);
        let rest = rest.map_err(|error| ApiError::internal(error.to_string()))?;
        let (mut text, stopped) = self.stops.push(&rest);
        text.push_str(&self.stops.finish());
        Ok(self.piece(
            &text,
            Some(if stopped { FinishReason::Stop } else { reason }),
        ))
    }

    fn piece(&mut self, text: &str, finish: Option<FinishReason>) -> Piece {
        let mut whole = self.echo.take().unwrap_or_default();
        whole.push_str(text);
        Piece {
            text: whole,
            scores: std::mem::take(&mut self.scores),
            finish,
        }
    }
}
