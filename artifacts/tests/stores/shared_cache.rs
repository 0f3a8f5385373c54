//! Two processes, one folder of downloads: as two pods that share a volume.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use finetune_artifacts::cache::Cache;
use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::store::Store;

use super::google::Google;

const FOLDER: &str = "FINETUNE_TEST_SHARED_CACHE";
const SIZE: usize = 4 << 20;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by the test below"]
async fn one_of_the_processes() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap());
    let cached = Cache::new(&folder)
        .directory(
            "gs://models/base/",
            &Credentials::from_environment(),
            |_| true,
        )
        .await
        .unwrap();
    let weights = std::fs::read(cached.join("weights")).unwrap();
    assert!(weights.len() == SIZE && weights.iter().all(|byte| *byte == 7));
    println!("found {}", cached.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_share_a_cache_download_once_and_see_whole_files_only() {
    let google = Google::start().await;
    let store = Store::open("gs://models/base/", &google.credentials()).unwrap();
    store.write("config.json", "{}".into()).await.unwrap();
    store.write("weights", vec![7; SIZE].into()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let processes: Vec<_> = (0..4)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "--nocapture"])
                .arg("shared_cache::one_of_the_processes")
                .env(FOLDER, folder.path())
                .envs(google.settings())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let found: Vec<String> = tokio::task::spawn_blocking(|| {
        processes
            .into_iter()
            .map(|process| {
                let output = process.wait_with_output().unwrap();
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(
                    output.status.success(),
                    "{said}{}",
                    String::from_utf8_lossy(&output.stderr)
                );
                let line = said.lines().find(|line| line.contains("found "));
                line.unwrap().rsplit("found ").next().unwrap().to_owned()
            })
            .collect()
    })
    .await
    .unwrap();
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{found:?}");
    let requests = google.server.received_requests().await.unwrap();
    let downloads = requests
        .iter()
        .filter(|request| {
            request.method.as_str() == "GET" && request.url.path().ends_with("weights")
        })
        .count();
    assert_eq!(downloads, 1, "the weights were downloaded more than once");
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".partial"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
