//! Names out of the data as messages show them: quoted, and cut where they are long or many.

/// Names of columns for messages, the first eight of them.
pub(super) fn listed<'name>(names: impl ExactSizeIterator<Item = &'name String>) -> String {
    let count = names.len();
    let shown: Vec<String> = names.take(8).map(|name| shortened(name)).collect();
    let more = if count > shown.len() { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// A name out of the data, quoted, at most 40 characters of it.
pub(super) fn shortened(name: &str) -> String {
    let short: String = name.chars().take(40).collect();
    format!("`{}`", short.escape_debug())
}
