//! An answer on its way to the client: tokens from the worker become pieces of text.
//!
//! Streams and whole answers are made of the same pieces, so that they cannot differ.

use std::sync::Arc;

use finetune_dataset::tokenize::Tokenizer;
use tokio::sync::mpsc::UnboundedReceiver;

use super::api::Usage;
use super::call_reader::{CallReader, NamedCall};
use super::generation::{Event, FinishReason, TokenScore};
use super::request_error::RequestError;
use super::stops::StopStrings;
use super::text::{IncrementalText, echo};
use super::token_text::TokenText;

/// A part of an answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Piece {
    /// The next characters.
    pub(super) text: String,
    /// The tokens that came with them.
    pub(super) scores: Vec<TokenScore>,
    /// In the last piece: the calls.
    pub(super) calls: Vec<NamedCall>,
    /// In the last piece: why there are no more.
    pub(super) finish: Option<FinishReason>,
}

/// How the tokens of an answer become what the client gets.
#[derive(Debug)]
pub(super) struct Form {
    /// Texts that end it.
    pub(super) stops: StopStrings,
    /// Tokens that end it and are no text of it.
    pub(super) end_tokens: Vec<u32>,
    /// Tokens that end it and are text of it.
    pub(super) end_tokens_in_text: Vec<u32>,
    /// Whether special tokens are text.
    pub(super) special_tokens: bool,
    /// Whether it begins with the prompt.
    pub(super) echo: bool,
    /// What reads its calls, where it may have some.
    pub(super) calls: Option<CallReader>,
}

/// An answer on its way. Dropping it tells the worker that nobody waits any more.
#[derive(Debug)]
pub(super) struct Reply {
    events: UnboundedReceiver<Event>,
    tokenizer: Arc<Tokenizer>,
    text: IncrementalText,
    form: Form,
    /// The prompt's text, to be given out before the answer's.
    echo: Option<String>,
    /// Tokens whose text is still held back.
    scores: Vec<TokenScore>,
    prompt_tokens: usize,
    completion_tokens: usize,
    finished: bool,
}

impl Reply {
    /// The answer to `prompt`.
    pub(super) fn new(
        events: UnboundedReceiver<Event>,
        tokenizer: Arc<Tokenizer>,
        prompt: &[u32],
        form: Form,
    ) -> Result<Self, RequestError> {
        let text = IncrementalText::new(&tokenizer, prompt);
        let echo = form
            .echo
            .then(|| echo(&tokenizer, prompt))
            .transpose()
            .map_err(failed)?;
        Ok(Self {
            events,
            tokenizer,
            text,
            form,
            echo,
            scores: Vec::new(),
            prompt_tokens: prompt.len(),
            completion_tokens: 0,
            finished: false,
        })
    }

    /// The next piece; nothing after the last one or after an error.
    pub(super) async fn next(&mut self) -> Option<Result<Piece, RequestError>> {
        while !self.finished {
            let piece = match self.events.recv().await {
                None => Err(RequestError::no_worker()),
                Some(Event::Failed(error)) => Err(error),
                Some(Event::Prompt(scores)) => {
                    self.scores.extend(scores);
                    continue;
                }
                Some(Event::Token(score)) => self.token(score),
                Some(Event::Finished(reason)) => Ok(self.finish(reason)),
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
    pub(super) async fn collect(&mut self) -> Result<Piece, RequestError> {
        let mut whole = Piece::default();
        while let Some(piece) = self.next().await {
            let piece = piece?;
            whole.text.push_str(&piece.text);
            whole.scores.extend(piece.scores);
            whole.calls.extend(piece.calls);
            whole.finish = piece.finish;
        }
        Ok(whole)
    }

    /// The tokens so far.
    pub(super) const fn usage(&self) -> Usage {
        Usage::new(self.prompt_tokens, self.completion_tokens)
    }

    fn token(&mut self, score: TokenScore) -> Result<Piece, RequestError> {
        let new = self.text_of(score.token)?;
        self.completion_tokens += 1;
        self.scores.push(score);
        let (text, stopped) = self.form.stops.push(&new);
        Ok(self.piece(&text, stopped.then_some(FinishReason::Stop)))
    }

    /// The text that one more token makes certain.
    fn text_of(&mut self, token: u32) -> Result<TokenText, RequestError> {
        let mut text = TokenText::default();
        if self.form.end_tokens.contains(&token) {
            return Ok(text);
        }
        if self.form.end_tokens_in_text.contains(&token) {
            text.push(&self.text.finish(), true);
            let own = self.tokenizer.token_bytes(token);
            text.push(&String::from_utf8_lossy(&own), true);
            return Ok(text);
        }
        let new = self.text.push(&self.tokenizer, token).map_err(failed)?;
        text.push(&new, true);
        if self.tokenizer.is_special(token) {
            let own = self.tokenizer.token_bytes(token);
            text.push(&String::from_utf8_lossy(&own), self.form.special_tokens);
        }
        Ok(text)
    }

    fn finish(&mut self, reason: FinishReason) -> Piece {
        let mut rest = TokenText::default();
        rest.push(&self.text.finish(), true);
        let (mut text, stopped) = self.form.stops.push(&rest);
        text.append(&self.form.stops.finish());
        self.piece(
            &text,
            Some(if stopped { FinishReason::Stop } else { reason }),
        )
    }

    fn piece(&mut self, text: &TokenText, finish: Option<FinishReason>) -> Piece {
        let mut piece = Piece {
            text: self.echo.take().unwrap_or_default(),
            finish,
            ..Piece::default()
        };
        match &mut self.form.calls {
            None => piece.text.push_str(&text.seen(0..text.all().len())),
            Some(reader) => {
                piece.text.push_str(&reader.push(text));
                if finish.is_some() {
                    let (rest, calls) = reader.finish();
                    piece.text.push_str(&rest);
                    piece.calls = calls;
                }
            }
        }
        if !piece.calls.is_empty() && finish == Some(FinishReason::Stop) {
            piece.finish = Some(FinishReason::ToolCalls);
        }
        piece.scores = std::mem::take(&mut self.scores);
        piece
    }
}

fn failed(error: finetune_dataset::tokenize::Error) -> RequestError {
    RequestError::Internal(error.to_string())
}
