//! Folders for files on their way out or in, which end with the process that made them, however that ends.
//!
//! A process that is killed leaves its folders behind. In each there is a file that its process has locked, and the system frees
//! the lock with the process: a folder whose file can be locked belongs to nobody, and the next process deletes it. The number
//! of a process would not tell that, as processes in containers are all numbered alike.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// What the names of all such folders begin with.
const PREFIX: &str = "temporary-";

/// The file that the folder's process has locked.
const OWNER: &str = "owner.lock";

/// The folder in it for the files.
const FILES: &str = "files";

/// A folder for files on their way, removed when dropped.
#[derive(Debug)]
pub struct TemporaryFolder {
    files: PathBuf,
    /// Closed before the folder is deleted: a network's file system keeps what is open.
    _owner: File,
    _folder: TempDir,
}

impl TemporaryFolder {
    /// Makes one in `place`.
    pub fn new(place: &Path) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(place)?;
        // It gets its name once it is locked, so that nobody finds it unlocked.
        let unlocked = folder.path().join("owner.new");
        let owner = File::create_new(&unlocked)?;
        // Without locks nobody can lock it either: the folder of a killed process stays then.
        let _ = owner.lock();
        std::fs::rename(&unlocked, folder.path().join(OWNER))?;
        let files = folder.path().join(FILES);
        std::fs::create_dir(&files)?;
        Ok(Self {
            files,
            _owner: owner,
            _folder: folder,
        })
    }

    /// Where the files go; empty at first.
    pub fn path(&self) -> &Path {
        &self.files
    }
}

/// Deletes the folders in `place` whose process is gone.
pub(super) fn delete_ownerless(place: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(place)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let folder = entry.path();
        // One that is being made or deleted has no such file.
        let Ok(owner) = File::options().write(true).open(folder.join(OWNER)) else {
            continue;
        };
        if owner.try_lock().is_err() {
            continue;
        }
        drop(owner);
        tracing::info!(folder = %folder.display(), "deleting what a killed process left behind");
        match std::fs::remove_dir_all(&folder) {
            // Another process deletes it too.
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_killed_processes_are_deleted_and_those_in_use_stay() {
        let place = tempfile::tempdir().unwrap();
        let used = TemporaryFolder::new(place.path()).unwrap();
        std::fs::write(used.path().join("weights"), "new").unwrap();
        let left = place.path().join("temporary-left");
        std::fs::create_dir_all(left.join(FILES)).unwrap();
        std::fs::write(left.join(FILES).join("weights"), "old").unwrap();
        std::fs::write(left.join(OWNER), "").unwrap();
        let of_somebody_else = place.path().join("temporary-notes");
        std::fs::create_dir(&of_somebody_else).unwrap();

        delete_ownerless(place.path()).unwrap();
        assert!(!left.exists());
        assert!(of_somebody_else.exists());
        assert!(used.path().join("weights").exists());

        drop(used);
        let names: Vec<_> = std::fs::read_dir(place.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(names, [of_somebody_else]);
    }
}
