//! One row of data to one row of tokens and its loss mask.

use finetune_artifacts::rows::{Conversation, Message, Row, RowContent, RowFormat};
use finetune_crds::fine_tune_job::{ChatTemplateUse, LossOn};

use super::conversation::{self, Turn};
use super::left_out::LeftOut;
use super::refusal::Refusal;
use super::tokenized_row::TokenizedRow;
use crate::template::Time;
use crate::tokenize::{Encoded, Tokenizer};

/// What the manifest says of rows, with every default decided.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EncoderSettings {
    /// Which tokens carry loss.
    pub loss_on: LossOn,
    /// Longer rows are cut on the right.
    pub max_length: usize,
    /// Whether a Text row ends with the end-of-sequence token.
    pub append_end_of_sequence: bool,
    /// Whether prompts and tasks go through the base's chat template.
    pub chat_template: ChatTemplateUse,
    /// The day that templates which print the date are told.
    pub day: jiff::civil::Date,
}

impl EncoderSettings {
    /// The part of the tokens that carries loss where the manifest leaves it open; an error where it asks for what the
    /// form of the rows does not have.
    pub fn loss_on(wanted: Option<LossOn>, format: RowFormat) -> Result<LossOn, String> {
        match (format, wanted) {
            (RowFormat::Messages | RowFormat::ShareGPT, None) => Ok(LossOn::Assistant),
            (RowFormat::PromptCompletion | RowFormat::Alpaca | RowFormat::Preference, None) => {
                Ok(LossOn::Completion)
            }
            (RowFormat::Preference, Some(LossOn::Assistant | LossOn::All)) => Err(
                "dataset.lossOn is not Completion, which is all that format Preference can have: remove it"
                    .to_owned(),
            ),
            (RowFormat::Text, None) => Ok(LossOn::All),
            (RowFormat::PromptCompletion | RowFormat::Alpaca, Some(LossOn::Assistant)) => {
                Err(format!(
                    "dataset.lossOn is Assistant, expected Completion or All with format {format}"
                ))
            }
            (RowFormat::Text, Some(LossOn::Assistant | LossOn::Completion)) => Err(
                "dataset.lossOn is not All, which is all that format Text can have: remove it"
                    .to_owned(),
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
    /// What the chat template leaves out of the row.
    pub left_out: Vec<LeftOut>,
    /// What the prompt ends in when an answer is asked for, if that does not stand before the answer that is learnt.
    pub asked_otherwise: Option<String>,
}

/// The tokens of a row before it is cut.
#[derive(Default)]
struct Tokens {
    ids: Vec<u32>,
    loss: Vec<bool>,
    left_out: Vec<LeftOut>,
    asked_otherwise: Option<String>,
}

impl Tokens {
    fn new(ids: Vec<u32>, loss: Vec<bool>) -> Self {
        Self {
            ids,
            loss,
            ..Self::default()
        }
    }
}

/// Turns rows into tokens.
#[derive(Debug)]
pub struct Encoder<'model> {
    tokenizer: &'model Tokenizer,
    settings: EncoderSettings,
}

impl<'model> Encoder<'model> {
    /// An encoder with the model's own tokenizer and template.
    pub fn new(tokenizer: &'model Tokenizer, settings: EncoderSettings) -> Self {
        Self {
            tokenizer,
            settings,
        }
    }

    /// The tokens of a row: one row of them, two for the answers of a preference, or as many as a document needs. The error is a fault of the row, or of the
    /// template with this row.
    pub fn encode(&self, row: &Row) -> Result<Vec<EncodedRow>, Refusal> {
        self.content(&row.content)
    }

    fn content(&self, content: &RowContent) -> Result<Vec<EncodedRow>, Refusal> {
        let tokens = match content {
            RowContent::Preference { chosen, .. }
                if self.settings.chat_template == ChatTemplateUse::Never
                    && matches!(**chosen, RowContent::Messages(_)) =>
            {
                return Err(
                    "the row holds lists of messages, which nothing but a chat template makes a text of, and \
                     `dataset.chatTemplate` is `Never`: remove it, or give texts"
                        .to_owned()
                        .into(),
                );
            }
            RowContent::Preference { chosen, rejected } => {
                let mut rows = self.content(chosen)?;
                rows.extend(self.content(rejected)?);
                return Ok(rows);
            }
            RowContent::Messages(conversation) => self.conversation(conversation)?,
            RowContent::PromptCompletion { prompt, completion } => {
                if self.goes_through_template() {
                    self.answered(&[], prompt, completion)?
                } else {
                    self.pair(prompt, completion)?
                }
            }
            RowContent::Text(text) => self.text(text)?,
            RowContent::Document(text) => return self.document(text),
            RowContent::Alpaca {
                before,
                instruction,
                input,
                output,
            } => self.task(before, instruction, input, output)?,
        };
        Ok(vec![self.finished(tokens)])
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        self.tokenizer
    }

    /// Whether a prompt is asked as it is when the model is served: as the user's turn.
    pub fn goes_through_template(&self) -> bool {
        self.settings.chat_template == ChatTemplateUse::Auto && self.tokenizer.template().is_ok()
    }

    /// A prompt as the user's turn after those `before` it, and what is learnt as the answer.
    fn answered(&self, before: &[Message], prompt: &str, answer: &str) -> Result<Tokens, Refusal> {
        let mut messages = before.to_vec();
        messages.extend([
            Message::new("user", prompt),
            Message::new("assistant", answer),
        ]);
        self.conversation(&Conversation {
            messages,
            tools: Vec::new(),
        })
    }

    /// A task goes through the model's chat template, as it will be asked when the model is served; without one, through the
    /// prompt that the Alpaca data was made with.
    fn task(
        &self,
        before: &[Message],
        instruction: &str,
        input: &str,
        output: &str,
    ) -> Result<Tokens, Refusal> {
        if !self.goes_through_template() {
            if !before.is_empty() {
                let why = match self.tokenizer.template() {
                    Ok(_) => "`dataset.chatTemplate` is `Never`".to_owned(),
                    Err(error) => error.to_string(),
                };
                return Err(format!(
                    "the row has turns before its instruction (`system`, `history`), which need a chat template: {why}"
                )
                .into());
            }
            return Ok(self.pair(&alpaca_prompt(instruction, input), output)?);
        }
        match input {
            "" => self.answered(before, instruction, output),
            input => self.answered(before, &format!("{instruction}\n\n{input}"), output),
        }
    }

    /// Cuts a document into rows. A row begins with the last token of the one before, which nothing foretells at a start,
    /// so that each token is learnt once.
    fn document(&self, text: &str) -> Result<Vec<EncodedRow>, Refusal> {
        let tokens = self.text(text)?.ids;
        let length = self.settings.max_length;
        let mut rows = Vec::new();
        let mut start = 0;
        loop {
            let end = tokens.len().min(start + length);
            let part = tokens[start..end].to_vec();
            let loss = vec![true; part.len()];
            rows.push(self.finished(Tokens::new(part, loss)));
            if end == tokens.len() {
                return Ok(rows);
            }
            start = end - 1;
        }
    }

    /// Prompt and completion are tokenised apart, because at inference the prompt's tokens are fixed before the completion
    /// begins.
    fn pair(&self, prompt: &str, completion: &str) -> Result<Tokens, String> {
        let fault = |error: crate::tokenize::Error| error.to_string();
        let mut tokens = self.tokenizer.encode_sequence(prompt).map_err(fault)?;
        let given = tokens.len();
        tokens.extend(self.tokenizer.encode(completion).map_err(fault)?);
        self.end_sequence(&mut tokens)?;
        let all = self.settings.loss_on == LossOn::All;
        let loss = (0..tokens.len())
            .map(|place| all || place >= given)
            .collect();
        Ok(Tokens::new(tokens, loss))
    }

    fn text(&self, text: &str) -> Result<Tokens, String> {
        let mut tokens = self
            .tokenizer
            .encode_sequence(text)
            .map_err(|error| error.to_string())?;
        if self.settings.append_end_of_sequence {
            self.end_sequence(&mut tokens)?;
        }
        let loss = vec![true; tokens.len()];
        Ok(Tokens::new(tokens, loss))
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

    /// A template writes its own start token: none is added.
    fn conversation(&self, conversation: &Conversation) -> Result<Tokens, Refusal> {
        let template = self
            .tokenizer
            .template()
            .map_err(|error| error.to_string())?;
        let time = Time::Day(self.settings.day);
        let rendered = conversation::render(template, conversation, self.settings.loss_on, time)?;
        let encoded = self
            .tokenizer
            .encode_with_ranges(&rendered.text)
            .map_err(|error| error.to_string())?;
        let all = self.settings.loss_on == LossOn::All;
        let mut loss = vec![all; encoded.ids.len()];
        for turn in &rendered.turns {
            let end = self.end_of_turn(&encoded, turn);
            let start = turn.span.start;
            for (loss, range) in loss.iter_mut().zip(&encoded.ranges) {
                // A token that reaches into the turn belongs to it.
                if range.start < end && (range.start >= start || range.end > start) {
                    *loss = !all;
                }
            }
        }
        Ok(Tokens {
            ids: encoded.ids,
            loss,
            left_out: rendered.left_out,
            asked_otherwise: rendered.asked_otherwise,
        })
    }

    /// Where training of a turn ends: after the token that ends the turn, whatever special tokens stand before it, such as one
    /// that closes a call. What the template prints after that is not the model's to say. Without one, all that is printed
    /// ends the turn.
    fn end_of_turn(&self, encoded: &Encoded, turn: &Turn) -> usize {
        let after = |wanted: &dyn Fn(u32) -> bool| {
            let mut tokens = encoded.ids.iter().zip(&encoded.ranges);
            let found = tokens.find(|(id, range)| {
                range.start >= turn.content_end && range.start < turn.span.end && wanted(**id)
            });
            found.map(|(_, range)| range.end)
        };
        let ends = self.tokenizer.turn_end().map(|end| &end.any);
        after(&|id| ends.is_some_and(|ends| ends.contains(&id)))
            .or_else(|| after(&|id| self.tokenizer.is_special(id)))
            .unwrap_or(turn.end)
    }

    fn finished(&self, row: Tokens) -> EncodedRow {
        let Tokens {
            ids: mut tokens,
            mut loss,
            left_out,
            asked_otherwise,
        } = row;
        let truncated = tokens.len() > self.settings.max_length;
        tokens.truncate(self.settings.max_length);
        loss.truncate(self.settings.max_length);
        if let Some(first) = loss.first_mut() {
            *first = false;
        }
        EncodedRow {
            row: TokenizedRow { tokens, loss },
            truncated,
            left_out,
            asked_otherwise,
        }
    }
}

/// The prompt of the Alpaca data set (github.com/tatsu-lab/stanford_alpaca), for models without a chat template.
fn alpaca_prompt(instruction: &str, input: &str) -> String {
    if input.is_empty() {
        format!(
            "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n\
             ### Instruction:\n{instruction}\n\n### Response:\n"
        )
    } else {
        format!(
            "Below is an instruction that describes a task, paired with an input that provides further context. Write a \
             response that appropriately completes the request.\n\n\
             ### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
        )
    }
}
