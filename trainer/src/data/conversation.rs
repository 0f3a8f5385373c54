//! Which bytes of a rendered conversation the assistant says.
//!
//! A template that marks its own generation is believed. For others the conversation is rendered up to before and up to
//! after each assistant turn: the difference is the turn. It must never guess: a template that prints earlier turns
//! otherwise once later ones follow is refused.

use std::ops::Range;

use finetune_artifacts::rows::Message;
use finetune_crds::fine_tune_job::LossOn;

use crate::template::ChatTemplate;

const ASSISTANT: &str = "assistant";

/// A turn of the assistant in a rendered conversation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Turn {
    /// From its first byte to where the next turn begins, or to the end.
    pub(super) span: Range<usize>,
    /// Where its content ends, where that can be told; the first special token from there on ends the turn.
    pub(super) content_end: Option<usize>,
}

/// A conversation as text, and the turns to train on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Rendered {
    pub(super) text: String,
    pub(super) turns: Vec<Turn>,
}

/// Renders `messages` and finds the turns that `loss_on` wants; with `All` none is looked for.
pub(super) fn render(
    template: &ChatTemplate,
    messages: &[Message],
    loss_on: LossOn,
) -> Result<Rendered, String> {
    let marked = template
        .render_marked(messages, false)
        .map_err(|error| error.to_string())?;
    let text = marked.text;
    let turns = match loss_on {
        LossOn::All => Vec::new(),
        LossOn::Completion | LossOn::Assistant if template.is_marked() => {
            let turn = |span: &Range<usize>| Turn {
                span: span.clone(),
                content_end: Some(span.end),
            };
            match loss_on {
                LossOn::Completion => marked.spans.last().map(turn).into_iter().collect(),
                LossOn::Assistant | LossOn::All => marked.spans.iter().map(turn).collect(),
            }
        }
        LossOn::Completion | LossOn::Assistant => {
            let mut wanted: Vec<usize> = assistant_turns(messages).collect();
            if loss_on == LossOn::Completion {
                wanted = wanted.pop().into_iter().collect();
            }
            wanted
                .into_iter()
                .map(|index| turn_by_difference(template, messages, index, &text))
                .collect::<Result<_, _>>()?
        }
    };
    Ok(Rendered { text, turns })
}

fn assistant_turns(messages: &[Message]) -> impl Iterator<Item = usize> + '_ {
    (0..messages.len()).filter(|index| messages[*index].role == ASSISTANT)
}

fn turn_by_difference(
    template: &ChatTemplate,
    messages: &[Message],
    index: usize,
    text: &str,
) -> Result<Turn, String> {
    if index == 0 {
        return Err(
            "`messages[0]` is from the assistant, expected a turn of the user or the system before it"
                .to_owned(),
        );
    }
    let part = |end: usize, prompt: bool| {
        template
            .render(&messages[..end], prompt)
            .map_err(|error| error.to_string())
    };
    let before = part(index, true)?;
    let through = if index + 1 == messages.len() {
        text.to_owned()
    } else {
        part(index + 1, false)?
    };
    if !through.starts_with(&before) || !text.starts_with(&through) {
        return Err(format!(
            "the chat template prints `messages[{index}]` differently with what follows it, so that its tokens cannot be \
             told apart: end the row after that turn, set dataset.lossOn: All, or give the template \
             {{% generation %}} marks"
        ));
    }
    let content = messages[index].content.trim();
    let said = &text[before.len()..through.len()];
    let content_end = match content {
        "" => Some(before.len()),
        // The template may print something else than the content.
        _ => said
            .rfind(content)
            .map(|at| before.len() + at + content.len()),
    };
    Ok(Turn {
        span: before.len()..through.len(),
        content_end,
    })
}
