//! From tokens to text piece by piece: whole characters only.
//!
//! The pieces put together are the text that decoding all tokens at once gives, whatever the tokenizer joins; bytes that make no
//! character become U+FFFD. Each token costs the same, however long the answer is and whatever it is made of.

use finetune_dataset::tokenize::{Error, Tokenizer};

/// What stands for bytes that are no character.
const REPLACEMENT: char = '\u{fffd}';
/// Tokens before one that decide how it is written (some tokenizers drop the space before a first word).
const CONTEXT: usize = 6;
/// The most tokens over which a character may be spread: each has a byte of it.
const CHARACTER: usize = 4;

/// Decodes an answer token by token.
///
/// A prompt may end inside a character; the answer's text then begins with the whole character.
#[derive(Debug)]
pub(crate) struct IncrementalText {
    /// The last tokens that have a text, special ones left out.
    context: Vec<u32>,
    /// Bytes of a character that is not complete.
    pending: Vec<u8>,
}

impl IncrementalText {
    /// A decoder for what follows `prompt`.
    pub(crate) fn new(tokenizer: &Tokenizer, prompt: &[u32]) -> Self {
        let plain = prompt.iter().rev().copied();
        let plain = plain.filter(|token| !tokenizer.is_special(*token));
        let mut context: Vec<u32> = plain.take(CONTEXT).collect();
        context.reverse();
        let last = prompt.iter().rev().take(CHARACTER);
        let mut bytes: Vec<Vec<u8>> = last
            .map_while(|token| tokenizer.own_bytes(*token))
            .collect();
        bytes.reverse();
        let mut text = Self {
            context,
            pending: bytes.concat(),
        };
        text.complete();
        text
    }

    /// The text that one more token makes certain; empty while a character is incomplete. Special tokens have none.
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> Result<String, Error> {
        if tokenizer.is_special(token) {
            return Ok(String::new());
        }
        let own = tokenizer.own_bytes(token);
        let text = if let Some(bytes) = own {
            self.pending.extend(bytes);
            self.complete()
        } else {
            let before = tokenizer.decode(&self.context, true)?;
            let with = [self.context.as_slice(), &[token]].concat();
            let with = tokenizer.decode(&with, true)?;
            let new = match with.strip_prefix(&before) {
                Some(new) => new.to_owned(),
                None => tokenizer.decode(&[token], true)?,
            };
            self.give_up() + &new
        };
        if self.context.len() == CONTEXT {
            self.context.remove(0);
        }
        self.context.push(token);
        Ok(text)
    }

    /// What is left at the end: a replacement character for bytes that never became one.
    pub(crate) fn finish(&mut self) -> String {
        self.give_up()
    }

    /// The characters that the bytes make; an incomplete one at the end stays.
    fn complete(&mut self) -> String {
        let mut text = String::new();
        let mut incomplete = Vec::new();
        let mut chunks = self.pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            match std::str::from_utf8(invalid) {
                Err(error) if error.error_len().is_none() && chunks.peek().is_none() => {
                    incomplete = invalid.to_vec();
                }
                Err(_) => text.push(REPLACEMENT),
                Ok(_) => {}
            }
        }
        self.pending = incomplete;
        text
    }

    fn give_up(&mut self) -> String {
        match std::mem::take(&mut self.pending).as_slice() {
            [] => String::new(),
            _ => REPLACEMENT.to_string(),
        }
    }
}

/// The text of a prompt for an answer that begins with it: a character at its end that is incomplete belongs to the answer, as
/// [`IncrementalText`] has it.
pub(crate) fn echo(tokenizer: &Tokenizer, prompt: &[u32]) -> Result<String, Error> {
    // Bytes are put together here: some tokenizers give up all characters of a row of bytes for one that is incomplete.
    let bytes = prompt.iter().rev();
    let mut bytes: Vec<Vec<u8>> = bytes
        .map_while(|token| tokenizer.own_bytes(*token))
        .collect();
    bytes.reverse();
    let head = tokenizer.decode(&prompt[..prompt.len() - bytes.len()], false)?;
    let mut last = IncrementalText {
        context: Vec::new(),
        pending: bytes.concat(),
    };
    Ok(head + &last.complete())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn tokenizer(kind: &str) -> Tokenizer {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let folder = match kind {
            "tiny-llama" => fixtures.join(kind),
            kind => fixtures.join("tokenizers").join(kind),
        };
        Tokenizer::from_directory(&folder).unwrap()
    }

    fn pieces(tokenizer: &Tokenizer, prompt: &[u32], answer: &[u32]) -> String {
        let mut text = IncrementalText::new(tokenizer, prompt);
        let mut all: Vec<String> = answer
            .iter()
            .map(|token| text.push(tokenizer, *token).unwrap())
            .collect();
        all.push(text.finish());
        all.concat()
    }

    /// The ids of the bytes of a text, in a vocabulary that has each.
    fn bytes(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        let of = |byte: u8| {
            let mut ids = 0..tokenizer.vocabulary_size() as u32;
            let found = ids.find(|id| {
                !tokenizer.is_special(*id) && tokenizer.own_bytes(*id) == Some(vec![byte])
            });
            found.unwrap()
        };
        text.bytes().map(of).collect()
    }

    #[rstest::rstest]
    fn the_pieces_of_an_answer_are_its_text(
        #[values(
            "tiny-llama",
            "byte-level",
            "byte-fallback",
            "byte-fallback-split",
            "unigram"
        )]
        kind: &str,
        #[values("The quick brown fox", "Grüße aus Köln", "東京 😀 x 🎉🎉", "Съешь")] text: &str,
    ) {
        let tokenizer = tokenizer(kind);
        let all = tokenizer.encode(text).unwrap();
        let whole = tokenizer.decode(&all, true).unwrap();
        for cut in 0..all.len() {
            let (prompt, answer) = all.split_at(cut);
            let echoed = echo(&tokenizer, prompt).unwrap();
            assert_eq!(echoed + &pieces(&tokenizer, prompt, answer), whole, "{cut}");
        }
    }

    #[rstest::rstest]
    fn a_prompt_that_ends_inside_a_character_leaves_the_whole_character_to_the_answer(
        #[values("tiny-llama", "byte-fallback")] kind: &str,
    ) {
        let tokenizer = tokenizer(kind);
        let all = bytes(&tokenizer, "a😀b€c");
        for (cut, echoed, expected) in [(2, "a", "😀b€c"), (4, "a", "😀b€c"), (8, "a😀b", "€c")]
        {
            assert_eq!(echo(&tokenizer, &all[..cut]).unwrap(), echoed, "{cut}");
            assert_eq!(
                pieces(&tokenizer, &all[..cut], &all[cut..]),
                expected,
                "{cut}"
            );
        }
        assert_eq!(pieces(&tokenizer, &all[..3], &[]), "\u{fffd}");
    }

    #[test]
    fn bytes_that_are_no_character_are_not_kept_for_later() {
        let tokenizer = tokenizer("tiny-llama");
        let ids = 0..tokenizer.vocabulary_size() as u32;
        let lone: Vec<u32> = ids
            .filter(|id| !tokenizer.is_special(*id) && tokenizer.own_bytes(*id) == Some(vec![0x80]))
            .collect();
        let mut text = IncrementalText::new(&tokenizer, &[5]);
        for _ in 0..100 {
            assert_eq!(text.push(&tokenizer, lone[0]).unwrap(), "\u{fffd}");
            assert!(text.pending.is_empty() && text.context.len() <= CONTEXT);
        }
    }

    proptest! {
        #[test]
        fn whatever_a_byte_level_model_says_is_given_out_as_decoding_it_at_once_gives_it(
            answer in prop::collection::vec(3u32..320, 0..40),
        ) {
            let tokenizer = tokenizer("tiny-llama");
            prop_assert_eq!(pieces(&tokenizer, &[5], &answer), tokenizer.decode(&answer, true).unwrap());
        }
    }
}
