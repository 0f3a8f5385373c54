//! Files on this machine that are put together to be uploaded.

use std::path::Path;

use finetune_artifacts::Error;

/// Writes a whole file. The error names it.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<(), Error> {
    std::fs::write(path, content).map_err(|source| Error::local("write", path, source))
}
