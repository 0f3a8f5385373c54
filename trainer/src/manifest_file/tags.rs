//! The tags of a manifest. The reader of its values passes over those that it does not know, and unpacks `!!binary`: either would let
//! a value stand for another than the one that is written there.

use serde_saphyr::granit_parser::{Event, Parser};

/// What is said of a tag that is not known.
pub(super) const KNOWN: &str = "expected one of YAML's core schema, !!str, !!int, !!float, !!bool, !!null, !!seq or !!map: remove it";

/// The first tag that is not of YAML's core schema, and the line, from 1, of the value that has it.
pub(super) fn foreign(text: &str) -> Option<(String, u64)> {
    Parser::new_from_str(text.trim_start_matches('\u{feff}'))
        // Where the text is not YAML, the reader of its values says so.
        .map_while(Result::ok)
        .find_map(|(event, span)| {
            let tag = match event {
                Event::Scalar(_, _, _, tag)
                | Event::SequenceStart(_, _, tag)
                | Event::MappingStart(_, _, tag) => tag?,
                _ => return None,
            };
            let written = tag.original();
            // `!` alone says that a value is text.
            (!tag.is_yaml_core_schema() && written != "!")
                .then(|| (written, span.start.line() as u64))
        })
}
