//! What is said of a place that holds no file: nothing is there, or something else is. Most of it is of the local file system.

use std::fs::{FileType, Metadata};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Why no file can be read at `path`, and the cure; `None` where nothing is there.
pub(super) fn of_file(path: &Path) -> Option<String> {
    match path.metadata() {
        Ok(found) if found.is_dir() => Some(
            "is a folder, expected a file: end it in `/` to mean all files below it".to_owned(),
        ),
        Ok(found) => special(&found).map(|kind| {
            format!(
                "is {kind}, which is no regular file: write what it gives to a file, and name that"
            )
        }),
        Err(_) => dangling(path).map(|target| {
            format!(
                "is a link to {target}, where nothing is: correct the link, or name the file itself"
            )
        }),
    }
}

/// Why no file lies below `folder`, and the cure; `None` where nothing is there. `passed_over` files do lie there and none is
/// of those that are read.
pub(super) fn of_folder(folder: &Path, passed_over: usize) -> Option<String> {
    // Of a slash at its end, the system makes something of its own where no folder is.
    let folder: &Path = &folder.components().collect::<PathBuf>();
    let Ok(found) = folder.metadata() else {
        return dangling(folder).map(|target| {
            format!("is a link to {target}, where nothing is: correct the link, or name the folder itself")
        });
    };
    if !found.is_dir() {
        return Some(
            "is no folder, expected one: drop the slash at its end to mean a file".to_owned(),
        );
    }
    if let Some(problem) = of_files(passed_over) {
        return Some(problem);
    }
    let others: Vec<String> = others(folder).into_iter().take(3).collect();
    Some(if others.is_empty() {
        "the folder holds no file: correct the URI, or put the files there".to_owned()
    } else {
        format!(
            "the folder holds no file, for {}: put regular files there",
            others.join(", ")
        )
    })
}

/// Why none of the files of a folder is read, and the cure; `None` where it has none.
pub(super) fn of_files(passed_over: usize) -> Option<String> {
    (passed_over > 0).then(|| {
        format!(
            "of its {passed_over} files none is one that is read here: correct the URI, or put the files there"
        )
    })
}

/// What lies directly in a folder and is no file, in the order of names.
fn others(folder: &Path) -> Vec<String> {
    let mut others: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let name = name.escape_debug();
            match path.metadata() {
                Ok(found) => special(&found).map(|kind| format!("`{name}` is {kind}")),
                Err(_) => dangling(&path).map(|_| format!("`{name}` is a link to nothing")),
            }
        })
        .collect();
    others.sort();
    others
}

/// What is neither a file nor a folder.
fn special(found: &Metadata) -> Option<&'static str> {
    let kind: FileType = found.file_type();
    if kind.is_file() || kind.is_dir() {
        None
    } else if kind.is_fifo() {
        Some("a pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

/// Where a link leads, where that is.
fn dangling(path: &Path) -> Option<String> {
    let target = path.read_link().ok()?;
    Some(target.to_string_lossy().escape_debug().to_string())
}
