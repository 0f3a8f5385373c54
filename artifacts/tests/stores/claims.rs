//! The volume of a claim, with what others may have put on it.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rstest::rstest;
use tempfile::TempDir;

use super::process::fetched;

/// A volume, and beside it what only the pod should see.
struct Mounts {
    root: TempDir,
}

impl Mounts {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mounts = Self { root };
        std::fs::create_dir_all(mounts.volume().join("model")).unwrap();
        std::fs::create_dir_all(mounts.volume().join("blobs")).unwrap();
        std::fs::write(mounts.volume().join("model/config.json"), "{}").unwrap();
        std::fs::write(mounts.volume().join("blobs/1"), "weights").unwrap();
        std::fs::create_dir(mounts.secret()).unwrap();
        std::fs::write(mounts.secret().join("token"), "hidden").unwrap();
        mounts
    }

    fn volume(&self) -> PathBuf {
        self.root.path().join("claims/data")
    }

    fn secret(&self) -> PathBuf {
        self.root.path().join("secret")
    }

    fn link(&self, target: impl AsRef<Path>, path: &str) {
        symlink(target, self.volume().join(path)).unwrap();
    }

    fn fetched(&self, uri: &str) -> Result<PathBuf, String> {
        let claims = self.root.path().join("claims");
        let environment = [("FINETUNE_CLAIMS", claims.to_str().unwrap())];
        fetched(uri, &self.root.path().join("cache"), None, &environment)
    }
}

#[rstest]
#[case::a_file("secret/token", "model/weights", "pvc://data/model/weights")]
#[case::a_file_of_a_folder("secret/token", "model/weights", "pvc://data/model/")]
#[case::a_folder("secret", "model/weights", "pvc://data/model/weights/")]
#[case::a_folder_of_a_folder("secret", "model/weights", "pvc://data/")]
#[case::a_file_below_a_folder("secret", "model/weights", "pvc://data/model/weights/token")]
#[case::another_claim("claims/other", "model/weights", "pvc://data/model/")]
fn a_link_that_leads_out_of_its_claim_is_refused(
    #[case] target: &str,
    #[case] link: &str,
    #[case] uri: &str,
) {
    let mounts = Mounts::new();
    std::fs::create_dir(mounts.root.path().join("claims/other")).unwrap();
    std::fs::write(mounts.root.path().join("claims/other/a"), "theirs").unwrap();
    mounts.link(mounts.root.path().join(target), link);
    let error = mounts.fetched(uri).unwrap_err();
    for expected in [
        "pvc://data/model/weights",
        "leads out of the claim: copy the file there",
    ] {
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn links_within_a_claim_are_followed_and_those_to_nothing_passed_over() {
    let mounts = Mounts::new();
    mounts.link("../blobs/1", "model/model.safetensors");
    mounts.link("../blobs", "model/more");
    mounts.link("../absent", "model/gone");
    let folder = mounts.fetched("pvc://data/model/").unwrap();
    let weights = std::fs::read(folder.join("model.safetensors")).unwrap();
    assert_eq!(weights, b"weights");
    for file in ["model.safetensors", "more/1"] {
        mounts.fetched(&format!("pvc://data/model/{file}")).unwrap();
    }
    mounts.link("../model", "model/again");
    let error = mounts.fetched("pvc://data/model/").unwrap_err();
    assert!(error.contains("circle"), "{error}");
}

#[test]
fn a_folder_of_a_claim_without_its_slash_is_called_one() {
    let error = Mounts::new().fetched("pvc://data/model").unwrap_err();
    assert!(
        error.contains("pvc://data/model: is a folder, expected a file: end it in `/`"),
        "{error}"
    );
}

/// Found by a folder that holds nothing else, as the test may run as root, who may read it.
#[test]
fn what_a_new_file_system_keeps_at_the_root_of_a_volume_is_not_looked_into() {
    let mounts = Mounts::new();
    let volume = mounts.volume();
    std::fs::remove_dir_all(&volume).unwrap();
    std::fs::create_dir_all(volume.join("lost+found")).unwrap();
    std::fs::write(volume.join("lost+found/1"), "").unwrap();
    let error = mounts.fetched("pvc://data/").unwrap_err();
    assert!(error.contains("the folder holds no file"), "{error}");
    std::fs::create_dir_all(volume.join("a/lost+found")).unwrap();
    std::fs::write(volume.join("a/lost+found/1"), "").unwrap();
    mounts.fetched("pvc://data/a/").unwrap();
}
