//! From the bytes of a manifest to its text.

/// The text of a file, or what it is instead of UTF-8.
pub(super) fn decoded(bytes: Vec<u8>) -> Result<String, String> {
    // UTF-16 has a mark at its start, or shows by the zero in every ASCII character; without a mark it would pass for UTF-8.
    let is_utf_16 = matches!(
        bytes.as_slice(),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..]
    );
    if is_utf_16 {
        return Err("is UTF-16, expected UTF-8".to_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..place]
            .split(|byte| *byte == b'\n')
            .count();
        format!("line {line}: byte {place} of the file is not UTF-8")
    })
}
