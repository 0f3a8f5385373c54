//! What a chat template does to rows that a person would not expect, counted over a data set and told in words. Pure.

use std::collections::{BTreeMap, BTreeSet};

use finetune_artifacts::rows::{Row, RowContent, place};

use crate::encode::EncodedRow;
use crate::left_out::{LeftOut, Part};
use crate::tokenize::Tokenizer;

/// Characters of a prompt that a warning shows.
const SHOWN: usize = 40;

/// Rows of which something is to be told.
#[derive(Debug)]
struct Rows {
    count: usize,
    /// Where the first one stands, and what is told of it.
    first: String,
}

/// What was found in the rows so far.
#[derive(Debug, Default)]
pub(super) struct TemplateNotes {
    rows: usize,
    /// By what is left out, and whether it was to be learnt.
    left_out: BTreeMap<(Part, bool), Rows>,
    asked_otherwise: Option<(usize, String)>,
    /// Rows whose prompt holds special tokens.
    with_special_tokens: Option<Rows>,
}

impl TemplateNotes {
    /// Takes a row into account.
    pub(super) fn add(&mut self, row: &Row, encoded: &[EncodedRow], special_tokens: &[String]) {
        self.rows += 1;
        let at = || place(&row.file, row.line);
        let mut kinds = BTreeSet::new();
        let left_out: Vec<&LeftOut> = encoded.iter().flat_map(|row| &row.left_out).collect();
        for left_out in left_out {
            let kind = (left_out.part, left_out.learnt);
            if kinds.insert(kind) {
                let first = || format!("{}, {left_out}", at());
                count(&mut self.left_out, kind, first);
            }
        }
        if let Some(asked) = encoded.iter().find_map(|row| row.asked_otherwise.as_ref()) {
            let (count, _) = self
                .asked_otherwise
                .get_or_insert_with(|| (0, asked.clone()));
            *count += 1;
        }
        if let RowContent::PromptCompletion { prompt, .. } = &row.content
            && let Some(token) = special_tokens.iter().find(|token| prompt.contains(*token))
        {
            let found = self.with_special_tokens.get_or_insert_with(|| Rows {
                count: 0,
                first: format!("{}, {token}", at()),
            });
            found.count += 1;
        }
    }

    /// What deserves a look, in words.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self
            .left_out
            .iter()
            .map(|((part, learnt), rows)| {
                format!(
                    "the chat template leaves out {} in {} of {} rows (first: {}): {}",
                    what(*part),
                    rows.count,
                    self.rows,
                    rows.first,
                    meaning(*part, *learnt)
                )
            })
            .collect();
        if let Some((count, asked)) = &self.asked_otherwise {
            let from = asked
                .char_indices()
                .rev()
                .nth(SHOWN - 1)
                .map_or(0, |(at, _)| at);
            let end = &asked[from..];
            warnings.push(format!(
                "in {count} of {} rows the answer does not begin as it is asked for: the prompt that asks for an answer ends in \
                 {end:?}, which the chat template does not print before the answers that are learnt. Put it into the answers, \
                 or give the base a template that prints the same both ways",
                self.rows
            ));
        }
        if let Some(rows) = &self.with_special_tokens {
            warnings.push(format!(
                "the prompts of {} of {} rows hold special tokens (first: {}), as if they had been through a chat template \
                 already, and go through it once more: set dataset.chatTemplate: Never, or take them out",
                rows.count, self.rows, rows.first
            ));
        }
        warnings
    }
}

fn count(
    all: &mut BTreeMap<(Part, bool), Rows>,
    kind: (Part, bool),
    first: impl FnOnce() -> String,
) {
    all.entry(kind)
        .or_insert_with(|| Rows {
            count: 0,
            first: first(),
        })
        .count += 1;
}

fn what(part: Part) -> &'static str {
    match part {
        Part::Turn => "turns",
        Part::Words => "a part of what is said",
        Part::WordsBesideCalls => "words beside calls",
        Part::Thought | Part::Reasoning => "the reasoning of earlier turns",
        Part::Calls => "calls",
        Part::Name => "names",
        Part::Tools => "`tools`",
    }
}

fn meaning(part: Part, learnt: bool) -> &'static str {
    match (part, learnt) {
        (Part::Thought | Part::Reasoning, true) => {
            "these turns are learnt without it; dataset.lossOn: Completion learns the last turn alone"
        }
        (Part::WordsBesideCalls, true) => "the calls of these turns are learnt alone",
        (Part::Tools, _) => "the model is not told of these functions",
        _ => "the model does not see it",
    }
}

/// How the base ends a turn, if nothing but the template says so.
pub(super) fn unnamed_end(tokenizer: &Tokenizer) -> Option<String> {
    let end = tokenizer.turn_end()?;
    let named = tokenizer.named_stop_ids();
    if end.answer.iter().any(|id| named.contains(id)) {
        return None;
    }
    let text = |ids: &[u32]| tokenizer.decode(ids, false).unwrap_or_default();
    let (end, named) = (text(&end.answer[..1]), text(named));
    let named = match named.as_str() {
        "" => "and the base names no end".to_owned(),
        named => format!("but eos_token and generation_config.json name {named}"),
    };
    Some(format!(
        "the chat template ends a turn with {end}, {named}: that end is learnt, `trainer generate`, `trainer serve` and a whole \
         model that is published end answers there, and another engine must be told, such as by `stop: [\"{end}\"]`"
    ))
}

/// The texts of the special tokens.
pub(super) fn special_tokens(tokenizer: &Tokenizer) -> Vec<String> {
    let added = tokenizer.inner().get_added_tokens_decoder();
    let special = added.into_values().filter(|token| token.special);
    let mut texts: Vec<String> = special.map(|token| token.content).collect();
    texts.retain(|text| text.len() > 2);
    texts.sort_unstable();
    texts
}
