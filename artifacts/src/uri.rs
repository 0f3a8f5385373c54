//! Where things lie: `file:///folder/` or `s3://bucket/key`. Nothing else is accepted.
//!
//! A key is taken as it is written, without percent-decoding, as the S3 tools do. Segments that climb (`..`) are refused.

use std::fmt;
use std::path::{Path, PathBuf};

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
}

impl Location {
    /// Parses a URI.
    pub fn parse(uri: &str) -> Result<Self> {
        let fault = |problem: String| Error::invalid(format!("URI `{uri}`"), problem);
        let Some((scheme, rest)) = uri.split_once("://") else {
            return Err(fault(
                "has no scheme, expected `s3://bucket/key` or `file:///absolute/path`".into(),
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
            _ => Err(fault(format!(
                "has scheme `{scheme}`, expected `s3` or `file`"
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
            Self::File { folder, .. } | Self::S3 { folder, .. } => *folder,
        }
    }

    /// The same as a folder.
    #[must_use]
    pub fn into_folder(mut self) -> Self {
        match &mut self {
            Self::File { folder, .. } | Self::S3 { folder, .. } => *folder = true,
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
        }
    }
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
    #[case("https://models/a", "scheme `https`")]
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
