//! One row of data to one row of tokens and its loss mask.

use finetune_artifacts::rows::{Row, RowContent, RowFormat};
use finetune_crds::fine_tune_job::LossOn;

use super::TokenizedRow;
use super::conversation::{self, Rendered, Turn};
use crate::tokenize::{Encoded, Tokenizer};

/// What the manifest says of rows, with every default decided.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Which tokens carry loss.
    pub loss_on: LossOn,
    /// Longer rows are cut on the right.
    pub max_length: usize,
    /// Whether a Text row ends with the end-of-sequence token.
    pub append_end_of_sequence: bool,
}

impl Settings {
    /// The part of the tokens that carries loss where the manifest leaves it open; an error where it asks for what the
    /// form of the rows does not have.
    pub fn loss_on(wanted: Option<LossOn>, format: RowFormat) -> Result<LossOn, String> {
        match (format, wanted) {
            (RowFormat::Messages, None) => Ok(LossOn::Assistant),
            (RowFormat::PromptCompletion, None) => Ok(LossOn::Completion),
            (RowFormat::Text, None) => Ok(LossOn::All),
            (RowFormat::PromptCompletion, Some(LossOn::Assistant)) => Err(
                "dataset.lossOn is Assistant, expected Completion or All with format PromptCompletion".to_owned(),
            ),
            (RowFormat::Text, Some(LossOn::Assistant | LossOn::Completion)) => Err(
                "dataset.lossOn is not All, which is all that format Text can have: remove it".to_owned(),
            ),
            (_, Some(wanted)) => Ok(wanted),
        }
    }
}

/// A row of tokens and whether it was cut.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EncodedRow {
    /// The tokens.
    pub row: TokenizedRow,
    /// Whether tokens were cut off.
    pub truncated: bool,
}

/// Turns rows into tokens.
#[derive(Debug)]
pub struct Encoder<'model> {
    tokenizer: &'model Tokenizer,
    settings: Settings,
}

impl<'model> Encoder<'model> {
    /// An encoder with the model's own tokenizer and template.
    pub fn new(tokenizer: &'model Tokenizer, settings: Settings) -> Self {
        Self {
            tokenizer,
            settings,
        }
    }

    /// The tokens of a row. The error is a fault of the row, or of the template with this row.
    pub fn encode(&self, row: &Row) -> Result<EncodedRow, String> {
        let (tokens, loss) = match &row.content {
            RowContent::Messages(messages) => {
                let template = self
                    .tokenizer
                    .template()
                    .map_err(|error| error.to_string())?;
                let rendered = conversation::render(template, messages, self.settings.loss_on)?;
                self.conversation(&rendered)?
            }
            RowContent::PromptCompletion { prompt, completion } => self.pair(prompt, completion)?,
            RowContent::Text(text) => self.text(text)?,
        };
        Ok(self.finished(tokens, loss))
    }

    /// Prompt and completion are tokenised apart, because at inference the prompt's tokens are fixed before the completion
    /// begins.
    fn pair(&self, prompt: &str, completion: &str) -> Result<(Vec<u32>, Vec<bool>), String> {
        let fault = |error: crate::tokenize::Error| error.to_string();
        let mut tokens = self.tokenizer.encode_sequence(prompt).map_err(fault)?;
        let given = tokens.len();
        tokens.extend(self.tokenizer.encode(completion).map_err(fault)?);
        self.end_sequence(&mut tokens)?;
        let all = self.settings.loss_on == LossOn::All;
        let loss = (0..tokens.len())
            .map(|place| all || place >= given)
            .collect();
        Ok((tokens, loss))
    }

    fn text(&self, text: &str) -> Result<(Vec<u32>, Vec<bool>), String> {
        let mut tokens = self
            .tokenizer
            .encode_sequence(text)
            .map_err(|error| error.to_string())?;
        if self.settings.append_end_of_sequence {
            self.end_sequence(&mut tokens)?;
        }
        let loss = vec![true; tokens.len()];
        Ok((tokens, loss))
    }

    /// Adds the end-of-sequence token where it is not there already.
    fn end_sequence(&self, tokens: &mut Vec<u32>) -> Result<(), String> {
        let Some(eos) = &self.tokenizer.special().eos else {
            return Err(
                "the base model names no end-of-sequence token (`eos_token`), so that it could never learn to stop"
                    .to_owned(),
            );
        };
        if tokens.last() != Some(&eos.id) {
            tokens.push(eos.id);
        }
        Ok(())
    }

    fn conversation(&self, rendered: &Rendered) -> Result<(Vec<u32>, Vec<bool>), String> {
        let encoded = self
            .tokenizer
            .encode_with_ranges(&rendered.text)
            .map_err(|error| error.to_string())?;
        let mut loss = vec![self.settings.loss_on == LossOn::All; encoded.ids.len()];
        for turn in &rendered.turns {
            let end = self.end_of_turn(&encoded, turn);
            for (loss, range) in loss.iter_mut().zip(&encoded.ranges) {
                *loss |= range.start >= turn.span.start && range.start < end;
            }
        }
        Ok((encoded.ids, loss))
    }

    /// Where training of a turn ends: after the special token that ends the turn. What the template prints after that is
    /// not the model's to say. Without one, all that is printed ends the turn.
    fn end_of_turn(&self, encoded: &Encoded, turn: &Turn) -> usize {
        let mut special = encoded
            .ids
            .iter()
            .zip(&encoded.ranges)
            .filter(|(id, range)| {
                range.start >= turn.content_end.unwrap_or(turn.span.start)
                    && range.start < turn.span.end
                    && self.tokenizer.is_special(**id)
            })
            .map(|(_, range)| range.end);
        let end = match turn.content_end {
            Some(_) => special.next(),
            None => special.next_back(),
        };
        end.unwrap_or(turn.span.end)
    }

    fn finished(&self, mut tokens: Vec<u32>, mut loss: Vec<bool>) -> EncodedRow {
        let truncated = tokens.len() > self.settings.max_length;
        tokens.truncate(self.settings.max_length);
        loss.truncate(self.settings.max_length);
        if let Some(first) = loss.first_mut() {
            *first = false;
        }
        EncodedRow {
            row: TokenizedRow { tokens, loss },
            truncated,
        }
    }
}
