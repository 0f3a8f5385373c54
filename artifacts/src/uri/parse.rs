//! From the text of a URI to a [`Location`]. A fault says what is wrong and what was expected; the caller adds the URI.

use std::path::Path;

use url::Url;

use super::{HubKind, Location, Provider};

type Result<T> = std::result::Result<T, String>;

pub(super) fn location(uri: &str) -> Result<Location> {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return Err(
            "has no scheme, expected `s3://bucket/key`, `gs://bucket/key`, `az://container/key`, `hf://owner/name`, \
             `https://host/file`, `pvc://claim/path` or `file:///absolute/path`"
                .into(),
        );
    };
    if uri.chars().any(char::is_control) {
        return Err("holds a control character; remove it".into());
    }
    match scheme {
        "s3" => bucket(Provider::S3, rest),
        "gs" => bucket(Provider::Google, rest),
        "az" => bucket(Provider::Azure, rest),
        "pvc" => claim(rest),
        "file" => file(rest),
        "hf" => hub(rest),
        "https" => https(uri),
        _ => Err(format!(
            "has scheme `{scheme}`, expected `s3`, `gs`, `az`, `hf`, `https`, `pvc` or `file`"
        )),
    }
}

fn bucket(provider: Provider, rest: &str) -> Result<Location> {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let rule = match provider {
        Provider::S3 => "3 to 63 of a-z, 0-9, `.` and `-`",
        Provider::Google => "3 to 222 of a-z, 0-9, `.`, `-` and `_`",
        Provider::Azure => "3 to 63 of a-z, 0-9 and `-`",
    };
    if !is_bucket(provider, bucket) {
        return Err(format!(
            "has {} `{bucket}`, expected {rule}",
            provider.bucket_word()
        ));
    }
    let (key, folder) = path_of(key)?;
    Ok(Location::Bucket {
        provider,
        bucket: bucket.to_owned(),
        key,
        folder,
    })
}

/// Whether the provider accepts the name of a bucket.
fn is_bucket(provider: Provider, name: &str) -> bool {
    let (longest, others) = match provider {
        Provider::S3 => (63, ".-"),
        Provider::Google => (222, ".-_"),
        Provider::Azure => (63, "-"),
    };
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    (3..=longest).contains(&name.len())
        && name
            .chars()
            .all(|each| each.is_ascii_lowercase() || each.is_ascii_digit() || others.contains(each))
        && edge(name.as_bytes().first())
        && edge(name.as_bytes().last())
}

fn claim(rest: &str) -> Result<Location> {
    let (claim, path) = rest.split_once('/').unwrap_or((rest, ""));
    let is_label = |label: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        label
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && edge(label.as_bytes().first())
            && edge(label.as_bytes().last())
    };
    // The name becomes a folder: none may climb.
    if claim.len() > 253 || !claim.split('.').all(is_label) {
        return Err(format!(
            "has claim `{claim}`, expected the name of a PersistentVolumeClaim: `pvc://claim/path`"
        ));
    }
    let (path, folder) = path_of(path)?;
    Ok(Location::Claim {
        claim: claim.to_owned(),
        path,
        folder,
    })
}

fn file(rest: &str) -> Result<Location> {
    let Some(path) = rest.strip_prefix('/') else {
        return Err("is not absolute, expected three slashes: `file:///absolute/path`".into());
    };
    let (path, folder) = path_of(path)?;
    Ok(Location::File {
        path: Path::new("/").join(path),
        folder,
    })
}

/// The path without slashes at its end, and whether it names a folder: the root, or by a slash at its end.
fn path_of(path: &str) -> Result<(String, bool)> {
    let folder = path.is_empty() || path.ends_with('/');
    let path = path.trim_end_matches('/');
    check_segments(path)?;
    Ok((path.to_owned(), folder))
}

/// `[datasets/]owner/name[@revision][/path]`.
fn hub(rest: &str) -> Result<Location> {
    const FORM: &str = "expected `hf://owner/name`, `hf://owner/name@revision/file` or `hf://datasets/owner/name/file`";
    let (kind, rest) = match rest.strip_prefix("datasets/") {
        Some(rest) => (HubKind::Dataset, rest),
        None => (HubKind::Model, rest),
    };
    let (owner, rest) = rest
        .split_once('/')
        .ok_or_else(|| format!("names no repository, {FORM}"))?;
    let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (name, revision) = match name.split_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (name, None),
    };
    let word = |word: &str| {
        !word.is_empty()
            && word.len() <= 96
            && word.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
            && word
                .chars()
                .all(|each| each.is_ascii_alphanumeric() || matches!(each, '.' | '_' | '-'))
    };
    if let Some(wrong) = [owner, name]
        .into_iter()
        .chain(revision)
        .find(|part| !word(part))
    {
        return Err(format!(
            "has `{wrong}`, which names nothing on the Hub; {FORM}"
        ));
    }
    let (path, folder) = path_of(path)?;
    Ok(Location::Hub {
        kind,
        repository: format!("{owner}/{name}"),
        revision: revision.map(str::to_owned),
        path,
        folder,
    })
}

fn https(uri: &str) -> Result<Location> {
    let url = Url::parse(uri).map_err(|error| format!("is no URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user name or password, which everyone would see: remove it".into());
    }
    if url.fragment().is_some() {
        return Err("holds a `#`; remove what follows it".into());
    }
    let name = url
        .path_segments()
        .and_then(|mut segments| segments.next_back());
    if name.is_none_or(|name| name.is_empty() || name.contains('%')) {
        return Err(
            "names no file: expected a URL whose path ends in a file name without escapes, because folders cannot be \
             listed over https"
                .into(),
        );
    }
    Ok(Location::Https { url, folder: false })
}

/// That no segment is empty or climbs.
fn check_segments(path: &str) -> Result<()> {
    if path.is_empty() {
        return Ok(());
    }
    for segment in path.split('/') {
        if segment.is_empty() {
            return Err("holds an empty segment (`//`); remove one slash".into());
        }
        if segment == "." || segment == ".." {
            return Err(format!("holds the segment `{segment}`; write the path out"));
        }
    }
    Ok(())
}
