//! Turns the version's name in an engine's answer back into the alias that the client used.
//!
//! Only the value of a key `model` is touched. Inside a JSON string a quote is escaped, so that generated text which
//! looks like such a key never matches.

use bytes::{Bytes, BytesMut};

/// What stands before the value.
const KEY: &[u8] = b"\"model\"";

/// A stream of JSON, or of server-sent events, under way. Complete lines leave at once; the rest waits for its end.
#[derive(Debug)]
pub(crate) struct Renamer {
    version: Vec<u8>,
    alias: Vec<u8>,
    waiting: BytesMut,
}

impl Renamer {
    /// From `version` to `alias`.
    pub(crate) fn new(version: &str, alias: &str) -> Self {
        let quoted = |name: &str| serde_json::Value::from(name).to_string().into_bytes();
        Self {
            version: quoted(version),
            alias: quoted(alias),
            waiting: BytesMut::new(),
        }
    }

    /// Takes bytes in and gives those that are ready.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Bytes {
        self.waiting.extend_from_slice(chunk);
        let Some(end) = self.waiting.iter().rposition(|byte| *byte == b'\n') else {
            return Bytes::new();
        };
        let ready = self.waiting.split_to(end + 1);
        self.rename(&ready)
    }

    /// Gives what still waits.
    pub(crate) fn finish(&mut self) -> Bytes {
        let rest = self.waiting.split();
        self.rename(&rest)
    }

    fn rename(&self, text: &[u8]) -> Bytes {
        let mut renamed = BytesMut::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = find(rest, KEY) {
            let (before, after) = rest.split_at(at + KEY.len());
            renamed.extend_from_slice(before);
            let value = after
                .iter()
                .position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b':'));
            let value = value.unwrap_or(after.len());
            let (gap, value) = after.split_at(value);
            renamed.extend_from_slice(gap);
            rest = value;
            if gap.contains(&b':') && value.starts_with(&self.version) {
                renamed.extend_from_slice(&self.alias);
                rest = &value[self.version.len()..];
            }
        }
        renamed.extend_from_slice(rest);
        renamed.freeze()
    }
}

fn find(text: &[u8], pattern: &[u8]) -> Option<usize> {
    text.windows(pattern.len())
        .position(|window| window == pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text through a renamer, in pieces of `size` bytes.
    fn through(text: &str, size: usize) -> String {
        let mut renamer = Renamer::new("tone@4f0c", "tone");
        let mut bytes = Vec::new();
        for chunk in text.as_bytes().chunks(size) {
            bytes.extend_from_slice(&renamer.push(chunk));
        }
        bytes.extend_from_slice(&renamer.finish());
        String::from_utf8(bytes).unwrap()
    }

    #[rstest::rstest]
    fn the_name_is_turned_back_however_the_bytes_arrive(#[values(1, 7, 4096)] size: usize) {
        let events = "data: {\"id\":1,\"model\":\"tone@4f0c\",\"choices\":[]}\n\n\
                      data: {\"model\" : \"tone@4f0c\"}\n\ndata: [DONE]\n\n";
        let expected = events.replace("tone@4f0c", "tone");
        assert_eq!(through(events, size), expected);
        assert_eq!(
            through("{\"model\":\"tone@4f0c\"}", size),
            "{\"model\":\"tone\"}"
        );
    }

    #[test]
    fn other_values_and_text_that_only_looks_like_the_key_stay() {
        for text in [
            r#"{"model":"base"}"#,
            r#"{"text":"\"model\":\"tone@4f0c\""}"#,
            r#"{"text":"tone@4f0c"}"#,
            r#"["model","tone@4f0c"]"#,
            r#"{"model":"tone@4f0c1"}"#,
        ] {
            assert_eq!(through(text, 4096), text);
        }
    }

    #[test]
    fn a_complete_event_leaves_before_the_next_one_comes() {
        let mut renamer = Renamer::new("tone@4f0c", "tone");
        let ready = renamer.push(b"data: {\"model\":\"tone@4f0c\"}\n\ndata: {\"mo");
        assert_eq!(ready, "data: {\"model\":\"tone\"}\n\n");
    }
}
