//! Where things lie: `file:///folder/`, `s3://bucket/key`, `hf://owner/name` or `https://host/file`. Nothing else is
//! accepted. Only the first two can be written to.
//!
//! A key is taken as it is written, without percent-decoding, as the S3 tools do. Segments that climb (`..`) are refused.

use std::fmt;
use std::path::{Path, PathBuf};

use url::Url;

use crate::error::{Error, Result};

/// A parsed URI.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Location {
    /// An absolute path of the local file system.
    File {
        /// The path, without a slash at its end.
        path: PathBuf,
        /// Whether the URI ended in `/`: all files below.
        folder: bool,
    },
    /// An object or a prefix in an S3 bucket.
    S3 {
        /// The bucket.
        bucket: String,
        /// The key, without slashes at either end; empty for the whole bucket.
        key: String,
        /// Whether the URI ended in `/`: all objects below.
        folder: bool,
    },
    /// A repository of the Hugging Face Hub, or what lies in it. Read only.
    Hub {
        /// Models or data.
        kind: HubKind,
        /// `owner/name`.
        repository: String,
        /// The branch, tag or commit after `@`.
        revision: Option<String>,
        /// The path in it, without slashes at either end; empty for the whole repository.
        path: String,
        /// Whether all files below are meant.
        folder: bool,
    },
    /// One file. Read only.
    Https {
        /// The URL, its query included, which may hold a signature: never shown.
        url: Url,
        /// Whether the folder in which it lies is meant.
        folder: bool,
    },
}

/// What a repository of the Hub holds.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum HubKind {
    /// A model: `hf://owner/name`.
    Model,
    /// Data: `hf://datasets/owner/name`.
    Dataset,
}

impl HubKind {
    /// The word in the Hub's routes.
    pub(crate) const fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

impl Location {
    /// Parses a URI.
    pub fn parse(uri: &str) -> Result<Self> {
        let fault = |problem: String| Error::invalid(format!("URI `{uri}`"), problem);
        let Some((scheme, rest)) = uri.split_once("://") else {
            return Err(fault(
                "has no scheme, expected `s3://bucket/key`, `hf://owner/name`, `https://host/file` or \
                 `file:///absolute/path`"
                    .into(),
            ));
        };
        if uri.chars().any(char::is_control) {
            return Err(fault("holds a control character; remove it".into()));
        }
        match scheme {
            "s3" => {
                let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                if !is_bucket(bucket) {
                    return Err(fault(format!(
                        "has bucket `{bucket}`, expected 3 to 63 of a-z, 0-9, `.` and `-`"
                    )));
                }
                let folder = key.is_empty() || key.ends_with('/');
                let key = key.trim_end_matches('/');
                check_segments(key).map_err(fault)?;
                Ok(Self::S3 {
                    bucket: bucket.to_owned(),
                    key: key.to_owned(),
                    folder,
                })
            }
            "file" => {
                let Some(path) = rest.strip_prefix('/') else {
                    return Err(fault(
                        "is not absolute, expected three slashes: `file:///absolute/path`".into(),
                    ));
                };
                let folder = path.is_empty() || path.ends_with('/');
                let path = path.trim_end_matches('/');
                check_segments(path).map_err(fault)?;
                Ok(Self::File {
                    path: Path::new("/").join(path),
                    folder,
                })
            }
            "hf" => hub(rest).map_err(fault),
            "https" => https(uri).map_err(fault),
            _ => Err(fault(format!(
                "has scheme `{scheme}`, expected `s3`, `hf`, `https` or `file`"
            ))),
        }
    }

    /// Parses what `--work` takes: a URI, or a directory relative to the current one.
    pub fn parse_folder(text: &str) -> Result<Self> {
        let location = if text.contains("://") {
            Self::parse(text)?
        } else {
            let path = std::path::absolute(text)
                .map_err(|source| Error::local("resolve", Path::new(text), source))?;
            Self::parse(&format!("file://{}", path.display()))?
        };
        Ok(location.into_folder())
    }

    /// Whether it names everything below rather than one object.
    pub fn is_folder(&self) -> bool {
        match self {
            Self::File { folder, .. }
            | Self::S3 { folder, .. }
            | Self::Hub { folder, .. }
            | Self::Https { folder, .. } => *folder,
        }
    }

    /// The same as a folder.
    #[must_use]
    pub fn into_folder(mut self) -> Self {
        match &mut self {
            Self::File { folder, .. }
            | Self::S3 { folder, .. }
            | Self::Hub { folder, .. }
            | Self::Https { folder, .. } => *folder = true,
        }
        self
    }

    /// The folder it lies in and its name there. `None` for the root of a bucket or of the file system.
    pub fn split(&self) -> Option<(Self, String)> {
        match self {
            Self::File { path, .. } => Some((
                Self::File {
                    path: path.parent()?.to_owned(),
                    folder: true,
                },
                path.file_name()?.to_str()?.to_owned(),
            )),
            Self::S3 { key, .. } if key.is_empty() => None,
            Self::S3 { bucket, key, .. } => {
                let (parent, name) = key.rsplit_once('/').unwrap_or(("", key));
                Some((
                    Self::S3 {
                        bucket: bucket.clone(),
                        key: parent.to_owned(),
                        folder: true,
                    },
                    name.to_owned(),
                ))
            }
            Self::Hub { path, .. } if path.is_empty() => None,
            Self::Hub {
                kind,
                repository,
                revision,
                path,
                ..
            } => {
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
                Some((
                    Self::Hub {
                        kind: *kind,
                        repository: repository.clone(),
                        revision: revision.clone(),
                        path: parent.to_owned(),
                        folder: true,
                    },
                    name.to_owned(),
                ))
            }
            Self::Https { url, .. } => {
                let name = url.path_segments()?.next_back()?.to_owned();
                let folder = Self::Https {
                    url: url.clone(),
                    folder: true,
                };
                Some((folder, name))
            }
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |empty: bool, folder: bool| if folder && !empty { "/" } else { "" };
        match self {
            Self::File { path, folder } => {
                let root = path.as_os_str() == "/";
                write!(formatter, "file://{}{}", path.display(), end(root, *folder))
            }
            Self::S3 {
                bucket,
                key,
                folder,
            } => write!(
                formatter,
                "s3://{bucket}/{key}{}",
                end(key.is_empty(), *folder)
            ),
            Self::Hub {
                kind,
                repository,
                revision,
                path,
                folder,
            } => {
                formatter.write_str(match kind {
                    HubKind::Model => "hf://",
                    HubKind::Dataset => "hf://datasets/",
                })?;
                formatter.write_str(repository)?;
                if let Some(revision) = revision {
                    write!(formatter, "@{revision}")?;
                }
                write!(formatter, "/{path}{}", end(path.is_empty(), *folder))
            }
            Self::Https { url, folder } => {
                let mut shown = url.clone();
                shown.set_query(None);
                if *folder {
                    let name = shown.path().rsplit('/').next().unwrap_or_default().len();
                    let shown = shown.as_str();
                    return formatter.write_str(&shown[..shown.len() - name]);
                }
                formatter.write_str(shown.as_str())
            }
        }
    }
}

/// `[datasets/]owner/name[@revision][/path]`.
fn hub(rest: &str) -> std::result::Result<Location, String> {
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
    let folder = path.is_empty() || path.ends_with('/');
    let path = path.trim_end_matches('/');
    check_segments(path)?;
    Ok(Location::Hub {
        kind,
        repository: format!("{owner}/{name}"),
        revision: revision.map(str::to_owned),
        path: path.to_owned(),
        folder,
    })
}

fn https(uri: &str) -> std::result::Result<Location, String> {
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

/// Whether S3 accepts the name of a bucket.
fn is_bucket(name: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    (3..=63).contains(&name.len())
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-')
        })
        && edge(name.as_bytes().first())
        && edge(name.as_bytes().last())
}

/// That no segment is empty or climbs.
fn check_segments(path: &str) -> std::result::Result<(), String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("s3://models/a/b", "s3://models/a/b", false)]
    #[case("s3://models/a/b/", "s3://models/a/b/", true)]
    #[case("s3://models", "s3://models/", true)]
    #[case("s3://models/a%20b/ü c", "s3://models/a%20b/ü c", false)]
    #[case("file:///tmp/a", "file:///tmp/a", false)]
    #[case("file:///tmp/a/", "file:///tmp/a/", true)]
    #[case("file:///", "file:///", true)]
    #[case("hf://owner/name", "hf://owner/name/", true)]
    #[case("hf://owner/name@v1.0", "hf://owner/name@v1.0/", true)]
    #[case(
        "hf://owner/na.me_x/sub/a.gguf",
        "hf://owner/na.me_x/sub/a.gguf",
        false
    )]
    #[case(
        "hf://datasets/owner/name@main/data/",
        "hf://datasets/owner/name@main/data/",
        true
    )]
    #[case("https://host:8443/a/b.gguf", "https://host:8443/a/b.gguf", false)]
    #[case("https://host/a.jsonl?signature=hidden", "https://host/a.jsonl", false)]
    fn a_uri_reads_and_prints_the_same(
        #[case] uri: &str,
        #[case] printed: &str,
        #[case] folder: bool,
    ) {
        let location = Location::parse(uri).unwrap();
        assert_eq!(location.to_string(), printed);
        assert_eq!(location.is_folder(), folder);
    }

    #[rstest::rstest]
    #[case("models/a", "no scheme")]
    #[case("gopher://models/a", "scheme `gopher`")]
    #[case("hf://smol", "names no repository")]
    #[case("hf://owner/..", "has `..`")]
    #[case("hf://owner/name@/a", "has ``")]
    #[case("hf://owner/name/a/../b", "segment `..`")]
    #[case("https://me:secret@host/a.gguf", "user name or password")]
    #[case("https://host/folder/", "names no file")]
    #[case("https://host", "names no file")]
    #[case("https://host/a#b", "holds a `#`")]
    #[case("s3:///a", "bucket ``")]
    #[case("s3://Models/a", "bucket `Models`")]
    #[case("s3://models/a/../b", "segment `..`")]
    #[case("s3://models/a//b", "empty segment")]
    #[case("file://tmp/a", "not absolute")]
    #[case("file:///tmp/../etc", "segment `..`")]
    #[case("s3://models/a\n", "control character")]
    fn a_wrong_uri_is_refused_with_its_fault(#[case] uri: &str, #[case] fault: &str) {
        let error = Location::parse(uri).unwrap_err().to_string();
        assert!(error.contains(fault), "{error}");
    }

    #[test]
    fn splitting_gives_the_folder_and_the_name() {
        let (parent, name) = Location::parse("s3://models/a/b.bin")
            .unwrap()
            .split()
            .unwrap();
        assert_eq!(
            (parent.to_string().as_str(), name.as_str()),
            ("s3://models/a/", "b.bin")
        );
        assert!(Location::parse("s3://models/").unwrap().split().is_none());
    }
}
