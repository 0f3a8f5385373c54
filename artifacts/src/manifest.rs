//! `manifest.json`: the list of a folder's files, written last. Its digest names the folder.
//!
//! A manifest comes from a store and is untrusted: a path that would leave the folder is refused before anything is
//! written.

use std::path::Path;

use finetune_crds::contract::layout::MANIFEST;
use serde::{Deserialize, Serialize};

use crate::digest;
use crate::error::{Error, Result};

/// The greatest manifest that is read, in bytes.
pub const MAX_MANIFEST: u64 = 4 << 20;

/// The files of a folder, sorted by path, without the manifest itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The files.
    pub files: Vec<ManifestFile>,
}

/// One file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Its path below the folder, with `/` between names.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// 64 hexadecimal digits of the SHA-256 of its bytes.
    pub sha256: String,
}

impl ManifestFile {
    /// Its digest as everything else writes it: `sha256:<hex>`.
    pub fn digest(&self) -> String {
        format!("sha256:{}", self.sha256)
    }
}

impl Manifest {
    /// The manifest of the named files of a folder, hashed now. Blocks.
    pub fn of_files<S: AsRef<str>>(folder: &Path, paths: &[S]) -> Result<Self> {
        let mut files = paths
            .iter()
            .map(|path| {
                let path = path.as_ref();
                check_path(path).map_err(|problem| {
                    Error::invalid(
                        format!("file name `{path}` in {}", folder.display()),
                        problem,
                    )
                })?;
                let (digest, size) = digest::of_file(&folder.join(path))?;
                Ok(ManifestFile {
                    path: path.to_owned(),
                    size,
                    sha256: digest.replacen("sha256:", "", 1),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        files.sort_by(|left, right| left.path.cmp(&right.path));
        Ok(Self { files })
    }

    /// The manifest of all files below a folder but `manifest.json`, hashed now. Blocks. Links are refused: what they
    /// point to could change.
    pub fn of_folder(folder: &Path) -> Result<Self> {
        let mut paths = Vec::new();
        collect(folder, "", &mut paths)?;
        Self::of_files(folder, &paths)
    }

    /// The bytes that are stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings and numbers only: serialising cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The digest of [`Manifest::to_bytes`].
    pub fn digest(&self) -> String {
        digest::of_bytes(&self.to_bytes())
    }

    /// Parses a manifest. `origin` names it in messages.
    pub fn parse(bytes: &[u8], origin: &str) -> Result<Self> {
        let fault = |problem: String| Error::invalid(origin, problem);
        let manifest: Self = serde_json::from_slice(bytes)
            .map_err(|error| fault(format!("is not a manifest: {error}")))?;
        let mut previous: Option<&str> = None;
        for file in &manifest.files {
            let path = &file.path;
            check_path(path).map_err(|problem| fault(format!("lists path `{path}`, {problem}")))?;
            if previous.is_some_and(|previous| previous >= path.as_str()) {
                return Err(fault(format!(
                    "lists `{path}` twice or out of order, expected sorted paths"
                )));
            }
            if !digest::is_hex(&file.sha256) {
                return Err(fault(format!(
                    "has sha256 `{}` for `{path}`, expected 64 lower-case hexadecimal digits",
                    file.sha256
                )));
            }
            previous = Some(path);
        }
        Ok(manifest)
    }

    /// The entry of a path.
    pub fn file(&self, path: &str) -> Option<&ManifestFile> {
        self.files.iter().find(|file| file.path == path)
    }
}

/// That a path stays below its folder and is the same on every file system.
fn check_path(path: &str) -> std::result::Result<(), String> {
    if path == MANIFEST {
        return Err("expected every file but the manifest itself".into());
    }
    if path.is_empty() || path.len() > 512 {
        return Err("expected 1 to 512 bytes".into());
    }
    if path
        .chars()
        .any(|character| character.is_control() || character == '\\')
    {
        return Err("expected no control characters and no backslash".into());
    }
    if path
        .split('/')
        .any(|segment| matches!(segment, "" | "." | ".."))
    {
        return Err("expected a path below the folder, without `..`, `.` or an empty name".into());
    }
    Ok(())
}

fn collect(folder: &Path, prefix: &str, paths: &mut Vec<String>) -> Result<()> {
    let here = folder.join(prefix);
    let list = |source| Error::local("list", &here, source);
    for entry in std::fs::read_dir(&here).map_err(list)? {
        let entry = entry.map_err(list)?;
        let kind = entry.file_type().map_err(list)?;
        let Ok(name) = entry.file_name().into_string() else {
            return Err(Error::invalid(
                entry.path().display().to_string(),
                "has a name that is not UTF-8; rename it",
            ));
        };
        let path = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}/{name}")
        };
        if kind.is_dir() {
            collect(folder, &path, paths)?;
        } else if !kind.is_file() {
            return Err(Error::invalid(
                entry.path().display().to_string(),
                "is neither a file nor a folder; replace it by a copy",
            ));
        } else if path != MANIFEST {
            paths.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(paths: &[&str]) -> Vec<u8> {
        let files = paths
            .iter()
            .map(|path| ManifestFile {
                path: (*path).to_owned(),
                size: 1,
                sha256: "0".repeat(64),
            })
            .collect();
        Manifest { files }.to_bytes()
    }

    #[rstest::rstest]
    #[case::climbs(&["../evil"])]
    #[case::climbs_inside(&["a/../../evil"])]
    #[case::absolute(&["/etc/passwd"])]
    #[case::empty(&[""])]
    #[case::empty_segment(&["a//b"])]
    #[case::backslash(&["..\\evil"])]
    #[case::control(&["a\nb"])]
    #[case::itself(&["manifest.json"])]
    #[case::twice(&["a", "a"])]
    #[case::unsorted(&["b", "a"])]
    fn path_tricks_are_refused(#[case] paths: &[&str]) {
        assert!(Manifest::parse(&manifest(paths), "it").is_err());
    }

    #[test]
    fn unknown_fields_and_bad_hashes_are_refused() {
        let good = String::from_utf8(manifest(&["a"])).unwrap();
        assert!(Manifest::parse(good.as_bytes(), "it").is_ok());
        for bad in [
            good.replace("\"size\"", "\"link\":\"x\",\"size\""),
            good.replace(&"0".repeat(64), &"G".repeat(64)),
            good.replace(&"0".repeat(64), "00"),
            good.replace("\"size\":1", "\"size\":-1"),
        ] {
            assert_ne!(bad, good);
            assert!(Manifest::parse(bad.as_bytes(), "it").is_err(), "{bad}");
        }
    }

    #[test]
    fn the_same_files_give_the_same_digest_in_any_order_of_writing() {
        let make = |names: &[&str]| {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("sub")).unwrap();
            for name in names {
                std::fs::write(folder.path().join(name), name).unwrap();
            }
            Manifest::of_folder(folder.path()).unwrap()
        };
        let one = make(&["b", "a", "sub/c", "manifest.json"]);
        let two = make(&["sub/c", "a", "b"]);
        assert_eq!(one.digest(), two.digest());
        assert_eq!(one.files.len(), 3);
        assert_eq!(Manifest::parse(&one.to_bytes(), "it").unwrap(), one);
    }

    #[test]
    fn a_link_in_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("a")).unwrap();
        assert!(Manifest::of_folder(folder.path()).is_err());
    }
}
