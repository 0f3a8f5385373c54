//! What a file's name says of its content: the format that it ends in, and whether rows of it are counted by lines.

/// The part of a name that tells the format, in lower case.
pub(super) fn extension(name: &str) -> Option<String> {
    // Some addresses say more after the name.
    let path = match name.split_once('?') {
        Some((path, _)) if name.starts_with("https://") => path,
        _ => name,
    };
    let name = path.rsplit('/').next().unwrap_or(path);
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    extension.map(str::to_ascii_lowercase)
}

/// Whether the file of this name holds columns, not lines.
pub(super) fn is_columnar(name: &str) -> bool {
    extension(name).as_deref() == Some("parquet")
}

/// What places in the file of this name count.
pub(super) fn unit(name: &str) -> &'static str {
    if is_columnar(name) { "row" } else { "line" }
}
