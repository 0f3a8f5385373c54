//! What another process fetches, with an environment of its own, which tests in one process would share.

use std::path::{Path, PathBuf};
use std::process::Command;

use finetune_artifacts::cache::Cache;
use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::store::Store;
use finetune_artifacts::uri::Location;

const URI: &str = "FINETUNE_TEST_URI";
const CACHE: &str = "FINETUNE_TEST_CACHE";
const SECRET: &str = "FINETUNE_TEST_SECRET";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by other tests"]
async fn the_other_one() {
    let cache = Cache::new(Path::new(&std::env::var(CACHE).unwrap()));
    let credentials = match std::env::var_os(SECRET) {
        Some(folder) => Credentials::from_folder(Path::new(&folder)).unwrap(),
        None => Credentials::from_environment(),
    };
    let uri = std::env::var(URI).unwrap();
    let found = if uri.starts_with("http://") {
        let (store, name) = file_at(&uri);
        cache.object(&store, &name).await
    } else if uri.ends_with('/') {
        cache.directory(&uri, &credentials, |_| true).await
    } else {
        cache.file(&uri, &credentials).await
    };
    match found {
        Ok(path) => println!("found {}", path.display()),
        Err(error) => println!("refused {error}"),
    }
}

/// A file that is read as those of `https://` are, from a server that has no certificate.
pub(crate) fn file_at(url: &str) -> (Store, String) {
    let url: url::Url = url.parse().unwrap();
    let name = url.path_segments().unwrap().next_back().unwrap().to_owned();
    let location = Location::Https { url, folder: true };
    let store = Store::at(&location, &Credentials::default()).unwrap();
    (store, name)
}

/// What another process finds at `uri`, or what it says.
pub(crate) fn fetched(
    uri: &str,
    cache: &Path,
    secret: Option<&Path>,
    environment: &[(&str, &str)],
) -> Result<PathBuf, String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("process::the_other_one")
        .env(URI, uri)
        .env(CACHE, cache)
        .envs(environment.iter().copied());
    if let Some(secret) = secret {
        command.env(SECRET, secret);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let after = |word: &str| {
        let (_, rest) = said.split_once(word)?;
        Some(rest.lines().next().unwrap_or_default().to_owned())
    };
    match (after("found "), after("refused ")) {
        (Some(path), _) => Ok(path.into()),
        (None, Some(error)) => Err(error),
        (None, None) => panic!("{said}{}", String::from_utf8_lossy(&output.stderr)),
    }
}
