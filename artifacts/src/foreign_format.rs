//! Files that are something else than their name says. What they are shows in their first bytes, and the message that
//! names it spares a search.

/// What `bytes` are, with the cure, where they are something that often lies under the name of a weight file.
pub(crate) fn recognised(bytes: &[u8]) -> Option<&'static str> {
    // A zip archive is how torch.save has written pickles since 2020; protocols 2 to 5 begin with their number.
    let pickle = bytes.starts_with(b"PK\x03\x04") || matches!(bytes, [0x80, 2..=5, ..]);
    if pickle {
        return Some(
            "it is a pickle, which runs code when it is read: load it where that is safe, and save it again with \
             `save_pretrained`",
        );
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return Some("it is a pointer of Git LFS, not the file: fetch it with `git lfs pull`");
    }
    if bytes.starts_with(b"GGUF") {
        return Some("it is a GGUF file: name it as one, ending in .gguf");
    }
    let start = bytes.trim_ascii_start();
    if start.starts_with(b"<!") || start.starts_with(b"<html") || start.starts_with(b"<?xml") {
        return Some("it is a page of a web server, not the file: download it again");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_often_lies_under_the_name_of_a_weight_file_is_named() {
        for (bytes, expected) in [
            (&b"PK\x03\x04\x14\x00"[..], "pickle"),
            (b"\x80\x02}q\x00", "pickle"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"\n<!DOCTYPE html>", "web server"),
        ] {
            assert!(recognised(bytes).unwrap().contains(expected));
        }
        assert_eq!(recognised(b"\x40\0\0\0\0\0\0\0{"), None);
        assert_eq!(recognised(b"\x80\x01\0\0\0\0\0\0{"), None);
        assert_eq!(recognised(b""), None);
    }
}
