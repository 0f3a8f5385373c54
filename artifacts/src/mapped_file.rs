//! Files read in place. The one place in this crate that maps memory.
//!
//! It must never write: maps are read-only and private.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// The bytes of a file, mapped into memory.
#[derive(Debug)]
pub(crate) struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps the file at `path`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        // SAFETY: the map is read-only and lives no longer than `MappedFile`, which lends it out as `&[u8]`. Another
        // process could cut the file short, which ends ours with SIGBUS, or rewrite it. Both are excluded by how files
        // come to be here: downloads are renamed into the cache when complete and never changed afterwards, and a model
        // that is replaced while it is read is a fault of its owner. Values read twice are never trusted to be equal:
        // headers are parsed once into owned data, and every later access is bounds-checked against the map's length.
        #[expect(unsafe_code, reason = "mapping a file is unsafe by nature")]
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map })
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
