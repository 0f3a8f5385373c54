//! The bytes that a token stands for within a text. A token may be a part of a character, which has bytes and no text.

use tokenizers::{DecoderWrapper, Model};

use super::Tokenizer;

impl Tokenizer {
    /// The bytes of one token as it stands within a text, special tokens included; empty for an id that there is not.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        if let Some(bytes) = self.own_bytes(id) {
            return bytes;
        }
        // Some decoders drop the space before the first word: the second of two is as it stands within a text.
        let decode = |ids: &[u32]| self.decode(ids, false).unwrap_or_default();
        let (once, twice) = (decode(&[id]), decode(&[id, id]));
        twice.strip_prefix(&once).unwrap_or(&once).into()
    }

    /// The bytes of a token that are the same whatever stands beside it: all tokens of a byte-level vocabulary, and the single
    /// bytes into which others take apart what they have no token for.
    pub fn own_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let decoder = self.inner.get_decoder()?;
        if self.is_byte_level() {
            let piece = self.piece(id)?;
            let bytes: Option<Vec<u8>> = piece.chars().map(byte_of).collect();
            return Some(bytes.unwrap_or_else(|| piece.into_bytes()));
        }
        if !has(decoder, &|decoder| {
            matches!(decoder, DecoderWrapper::ByteFallback(_))
        }) {
            return None;
        }
        let piece = self.piece(id)?;
        let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
        let byte = u8::from_str_radix(digits, 16).ok();
        byte.filter(|_| digits.len() == 2).map(|byte| vec![byte])
    }

    /// Whether every token is a sequence of bytes.
    fn is_byte_level(&self) -> bool {
        self.inner.get_decoder().is_some_and(|decoder| {
            has(decoder, &|decoder| {
                matches!(decoder, DecoderWrapper::ByteLevel(_))
            })
        })
    }

    /// The bytes of the longest token: a text has at least as many tokens as this number goes into it.
    pub fn longest_token(&self) -> usize {
        let vocabulary = self.inner.get_vocab(true);
        vocabulary.keys().map(String::len).max().unwrap_or(1).max(1)
    }

    /// The texts of all special tokens.
    pub fn special_texts(&self) -> Vec<String> {
        let added = self.inner.get_added_tokens_decoder();
        added
            .into_values()
            .filter(|token| token.special)
            .map(|token| token.content)
            .collect()
    }

    /// A token as the vocabulary spells it.
    fn piece(&self, id: u32) -> Option<String> {
        self.inner
            .get_added_vocabulary()
            .simple_id_to_token(id)
            .or_else(|| self.inner.get_model().id_to_token(id))
    }
}

/// Whether a decoder, or one of those in its sequence, is of a kind.
fn has(decoder: &DecoderWrapper, kind: &impl Fn(&DecoderWrapper) -> bool) -> bool {
    match decoder {
        DecoderWrapper::Sequence(sequence) => sequence
            .get_decoders()
            .iter()
            .any(|decoder| has(decoder, kind)),
        decoder => kind(decoder),
    }
}

/// The byte that a character of a byte-level vocabulary stands for: printable ones for themselves, the others are counted
/// from U+0100 on (GPT-2's `bytes_to_unicode`).
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121 => 0x7f,
        0x122..=0x142 => code - 0x122 + 0x80,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::byte_of;

    #[test]
    fn every_byte_has_one_character_of_a_byte_level_vocabulary() {
        let bytes: BTreeSet<u8> = ('\u{0}'..='\u{200}').filter_map(byte_of).collect();
        assert_eq!(bytes.len(), 256);
        assert_eq!(('\u{0}'..='\u{200}').filter_map(byte_of).count(), 256);
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of('Ã'), Some(0xc3));
    }
}
