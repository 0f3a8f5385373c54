//! The Hugging Face Hub's API as far as reading needs it: which commit a revision is, which files it has, where they are.
//!
//! `HF_ENDPOINT` and `HF_TOKEN` come with the credentials, so that nobody can send a token elsewhere by editing a job.
//! A base is pinned to a commit before its first file is read, and stays with it.
//!
//! Source: the routes `resolve`, `api/…/revision` and `api/…/tree` as huggingface_hub 1.x uses them.

use std::sync::Arc;

use object_store::path::Path as Key;
use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;
use url::Url;

use crate::credentials::Credentials;
use crate::error::{Error, Result};
use crate::uri::{HubKind, Location};

use super::Store;
use super::web::{Source, WebStore, checked};

const ENDPOINT: &str = "HF_ENDPOINT";
const TOKEN: &str = "HF_TOKEN";
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// What is read where no revision is named.
const DEFAULT_REVISION: &str = "main";

/// A repository at a revision, and how it is reached.
#[derive(Clone)]
pub(super) struct Repository {
    endpoint: Url,
    kind: HubKind,
    name: String,
    revision: String,
    token: Option<String>,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Repository")
            .field("endpoint", &self.endpoint.as_str())
            .field("name", &self.name)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

/// A file of a listing.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct HubFile {
    pub(super) path: String,
    pub(super) size: u64,
    /// A hash of its content: sha256 where Git LFS has it, else Git's own.
    pub(super) oid: String,
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

impl Repository {
    /// The repository that a `hf://` location names, with endpoint and token of the credentials.
    pub(super) fn new(
        kind: HubKind,
        name: &str,
        revision: Option<&str>,
        credentials: &Credentials,
    ) -> Result<Self> {
        let endpoint = credentials.get(ENDPOINT).unwrap_or(DEFAULT_ENDPOINT);
        let token = credentials
            .get(TOKEN)
            .map(str::to_owned)
            .filter(|token| !token.is_empty());
        let fault = |problem: String| {
            Error::invalid(format!("{ENDPOINT} in {}", credentials.origin()), problem)
        };
        let parsed = Url::parse(&format!("{}/", endpoint.trim_end_matches('/')))
            .ok()
            .filter(|url| matches!(url.scheme(), "https" | "http") && url.has_host())
            .ok_or_else(|| {
                fault(format!(
                    "is `{endpoint}`, expected a URL such as {DEFAULT_ENDPOINT}"
                ))
            })?;
        if token.is_some() && parsed.scheme() == "http" && !is_loopback(&parsed) {
            return Err(fault(format!(
                "is `{endpoint}`, plain http, which would show {TOKEN} to the network: use https, or remove the token"
            )));
        }
        Ok(Self {
            endpoint: parsed,
            kind,
            name: name.to_owned(),
            revision: revision.unwrap_or(DEFAULT_REVISION).to_owned(),
            token,
        })
    }

    pub(super) fn revision(&self) -> &str {
        &self.revision
    }

    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Where a file is read; large ones are redirected to another host, which gets no token.
    pub(super) fn file(&self, path: &str) -> Url {
        let repository = match self.kind {
            HubKind::Model => self.name.clone(),
            HubKind::Dataset => format!("datasets/{}", self.name),
        };
        self.at(&format!("{repository}/resolve"), Some(path))
    }

    /// Where the files below `prefix` are listed, all levels.
    pub(super) fn tree(&self, prefix: &str) -> Url {
        let mut url = self.at(
            &format!("api/{}/{}/tree", self.kind.plural(), self.name),
            Some(prefix),
        );
        url.set_query(Some("recursive=true"));
        url
    }

    /// What the revision is.
    fn commit(&self) -> Url {
        self.at(
            &format!("api/{}/{}/revision", self.kind.plural(), self.name),
            None,
        )
    }

    fn at(&self, route: &str, path: Option<&str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(route.split('/'));
            // One segment: a branch may have slashes in its name.
            segments.push(&self.revision);
            let path = path.unwrap_or_default();
            segments.extend(path.split('/').filter(|part| !part.is_empty()));
        }
        url
    }

    /// The next page of a listing, on the same host.
    pub(super) fn next_page(&self, headers: &HeaderMap) -> Option<Url> {
        let link = headers.get(LINK)?.to_str().ok()?;
        let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
        let url = next.split_once('<')?.1.split_once('>')?.0;
        let url = self.endpoint.join(url).ok()?;
        (url.origin() == self.endpoint.origin()).then_some(url)
    }

    /// The files of a page of a listing.
    pub(super) fn files(page: &[u8]) -> serde_json::Result<Vec<HubFile>> {
        let entries: Vec<TreeEntry> = serde_json::from_slice(page)?;
        Ok(entries
            .into_iter()
            .filter(|entry| entry.kind == "file")
            .map(|entry| match entry.lfs {
                Some(lfs) => HubFile {
                    path: entry.path,
                    size: lfs.size,
                    oid: format!("sha256:{}", lfs.oid),
                },
                None => HubFile {
                    path: entry.path,
                    size: entry.size,
                    oid: entry.oid,
                },
            })
            .collect())
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
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
