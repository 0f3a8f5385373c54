//! Pins a base to a commit of the Hugging Face Hub: before its first file is read, so that it stays with it.

use std::sync::Arc;

use object_store::path::Path as Key;
use serde::Deserialize;

use super::Store;
use super::hub::Repository;
use super::web::{Source, WebStore, checked};
use crate::credentials::Credentials;
use crate::error::{Error, Result};
use crate::uri::Location;

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

/// The same `hf://` URI with the commit that its revision is now: `revision`, or the one after its `@`, or `main`. Any
/// other URI as it is.
pub async fn pin(uri: &str, revision: Option<&str>, credentials: &Credentials) -> Result<String> {
    let location = Location::parse(uri)?;
    let Location::Hub {
        kind,
        repository: name,
        revision: written,
        path,
        folder,
    } = location.clone()
    else {
        return match revision {
            None => Ok(uri.to_owned()),
            Some(revision) => Err(Error::invalid(
                format!("revision `{revision}`"),
                format!("applies to hf:// only, and the URI is {uri}: remove it"),
            )),
        };
    };
    if let (Some(written), Some(revision)) = (&written, revision) {
        return Err(Error::invalid(
            format!("revision `{revision}`"),
            format!("stands beside {uri}, which names `{written}`: remove one of them"),
        ));
    }
    let revision = revision.or(written.as_deref());
    let repository = Repository::new(kind, &name, revision, credentials)?;
    let commit = repository.commit();
    let reader = Arc::new(WebStore::new(Source::Hub(repository), &location)?);
    let store = Store::over(reader.clone(), Key::default(), &location, credentials);
    let ask = || async {
        let answer = checked(reader.request(commit.clone()).send().await, "");
        let answer = answer.map_err(|error| store.classify(&error, ""))?;
        let bytes = answer.bytes().await.map_err(|error| Error::Unavailable {
            uri: uri.to_owned(),
            cause: error.without_url().to_string(),
        })?;
        serde_json::from_slice::<Revision>(&bytes).map_err(|error| {
            Error::invalid(
                uri,
                format!("its endpoint does not speak the Hub's API: {error}"),
            )
        })
    };
    let sha = store.retry(ask).await?.sha;
    let pinned = Location::Hub {
        kind,
        repository: name,
        revision: Some(sha),
        path,
        folder,
    };
    Ok(pinned.to_string())
}
