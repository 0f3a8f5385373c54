//! SHA-256 digests as everything of ours writes them: `sha256:` and 64 lower-case hexadecimal digits.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The digest of `bytes`: `sha256:` and 64 hexadecimal digits.
pub fn of_bytes(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The digest and the size of a file. Blocks; reads the file once.
pub fn of_file(path: &Path) -> Result<(String, u64)> {
    let read = |source| Error::local("read", path, source);
    let mut file = std::fs::File::open(path).map_err(read)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer).map_err(read)?;
        if count == 0 {
            return Ok((format!("sha256:{}", hex::encode(hasher.finalize())), size));
        }
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
}

/// Whether `text` is `sha256:` and 64 lower-case hexadecimal digits.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(is_hex)
}

/// Whether `text` is 64 lower-case hexadecimal digits.
pub(crate) fn is_hex(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_digest_of_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, vec![7; 3 << 20]).unwrap();
        assert_eq!(
            of_file(&path).unwrap(),
            (of_bytes(&vec![7; 3 << 20]), 3 << 20)
        );
    }

    #[test]
    fn only_lower_case_hexadecimal_of_full_length_is_a_digest() {
        let digest = of_bytes(b"");
        assert!(is_digest(&digest));
        assert!(!is_digest(&digest.to_uppercase()));
        assert!(!is_digest(&digest[..70]));
        assert!(!is_digest(&digest.replace("sha256:", "")));
    }
}
