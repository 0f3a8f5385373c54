//! How little of a text a message quotes: one line of a log, with room for what is wrong with it.

use std::borrow::Cow;

/// The most characters that are quoted.
const QUOTED: usize = 200;

/// The text as a message quotes it: its beginning, where it is long.
pub(crate) fn cut(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(QUOTED) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!(
            "{}… ({} characters)",
            &text[..end],
            text.chars().count()
        )),
    }
}
