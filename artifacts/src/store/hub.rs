//! The Hugging Face Hub's API as far as reading needs it: where it says which commit a revision is and which files it has, and
//! where these are.
//!
//! `HF_ENDPOINT` and `HF_TOKEN` come with the credentials, so that nobody can send a token elsewhere by editing a job.
//!
//! Source: the routes `resolve`, `api/…/revision` and `api/…/tree` as huggingface_hub 1.x uses them.

use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;
use url::Url;

use crate::credentials::Credentials;
use crate::error::{Error, Result};
use crate::uri::HubKind;

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

    /// Where it is said which commit the revision is.
    pub(super) fn commit(&self) -> Url {
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
