//! Files that are read over HTTPS: of a repository of the Hugging Face Hub, or one file at a URL.
//!
//! A client for reading only, in the shape that [`Store`](super::Store) drives, so that retries, continued downloads and
//! digests are the same as for buckets. It must never send a token to another host than the one that it belongs to.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, LAST_MODIFIED, RANGE};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use url::Url;

use super::hub::Repository;
use crate::error::Error;
use crate::uri::Location;

type Result<T> = std::result::Result<T, object_store::Error>;

/// What is read.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A repository at a revision.
    Hub(Repository),
    /// One file; what it is asked for by name does not matter.
    Url(Url),
}

/// A reader of files over HTTPS.
#[derive(Debug)]
pub(super) struct WebStore {
    client: Client,
    source: Source,
}

impl WebStore {
    /// A reader of `source`, which `location` names. Nothing is asked yet.
    pub(super) fn new(source: Source, location: &Location) -> crate::Result<Self> {
        let client =
            client().map_err(|error| Error::invalid(location.to_string(), error.to_string()))?;
        Ok(Self { client, source })
    }

    /// A request for `url` of the source's own host.
    pub(super) fn request(&self, url: Url) -> RequestBuilder {
        let request = self.client.get(url);
        match &self.source {
            Source::Hub(repository) => match repository.token() {
                Some(token) => request.bearer_auth(token),
                None => request,
            },
            Source::Url(_) => request,
        }
    }

    fn url(&self, path: &str) -> Url {
        match &self.source {
            Source::Hub(repository) => repository.file(path),
            Source::Url(url) => url.clone(),
        }
    }

    /// The name of the content of `path`. Files of a commit never change; their etag may, with the host that sends them. A URL
    /// without an etag is known by the time of its last change, if its server says that.
    fn etag(&self, response: &Response) -> Option<String> {
        match &self.source {
            Source::Hub(repository) => Some(repository.revision().to_owned()),
            Source::Url(_) => {
                let said = |name| response.headers().get(name)?.to_str().ok();
                match (said(ETAG), said(LAST_MODIFIED)) {
                    (Some(etag), _) => Some(etag.to_owned()),
                    (None, Some(time)) => Some(format!("modified {time}")),
                    (None, None) => None,
                }
            }
        }
    }

    async fn get(&self, path: &str, options: GetOptions) -> Result<GetResult> {
        let mut request = self
            .request(self.url(path))
            // A compressed answer has neither the file's size nor its ranges.
            .header(ACCEPT_ENCODING, "identity");
        let start = match options.range {
            None => 0,
            Some(GetRange::Offset(start)) => start,
            Some(GetRange::Bounded(range)) => range.start,
            Some(GetRange::Suffix(_)) => return Err(read_only("reading the end of a file")),
        };
        if start > 0 {
            request = request.header(RANGE, format!("bytes={start}-"));
        }
        let response = checked(request.send().await, path)?;
        let etag = self.etag(&response);
        let whole = if start > 0 {
            if response.status() != StatusCode::PARTIAL_CONTENT
                || changed(options.if_match.as_deref(), etag.as_deref())
            {
                return Err(object_store::Error::Precondition {
                    path: path.to_owned(),
                    source: "it changed, or its server knows no ranges".into(),
                });
            }
            total(&response)
        } else {
            response.content_length()
        };
        let Some(size) = whole else {
            return Err(generic("the server does not say how long the file is"));
        };
        let stream = response.bytes_stream().map_err(generic).boxed();
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream),
            meta: meta(Key::from(path), size, etag),
            range: start..size,
            attributes: object_store::Attributes::default(),
            extensions: object_store::Extensions::default(),
        })
    }

    async fn entries(&self, prefix: String) -> Result<Vec<ObjectMeta>> {
        let Source::Hub(repository) = &self.source else {
            return Err(read_only("listing what lies beside a URL"));
        };
        let mut found = Vec::new();
        let mut next = Some(repository.tree(&prefix));
        while let Some(url) = next {
            let response = checked(self.request(url).send().await, &prefix)?;
            next = repository.next_page(response.headers());
            let page = response.bytes().await.map_err(generic)?;
            for entry in Repository::files(&page).map_err(generic)? {
                // Written by whoever owns the repository: a path that climbs is none.
                let key = Key::parse(&entry.path).map_err(generic)?;
                found.push(meta(key, entry.size, Some(entry.oid)));
            }
        }
        Ok(found)
    }
}

/// A client whose requests may last as long as bytes come.
fn client() -> reqwest::Result<Client> {
    Client::builder()
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(Duration::from_mins(1))
        .user_agent(concat!("finetune/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// An answer that is one; what the server said otherwise.
pub(super) fn checked(answer: reqwest::Result<Response>, path: &str) -> Result<Response> {
    // The URL may hold a signature.
    let response = answer.map_err(|error| generic(error.without_url()))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let said = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
    let refusal = Refusal {
        status,
        code: said("x-error-code"),
        message: said("x-error-message"),
    };
    Err(if status == StatusCode::NOT_FOUND {
        object_store::Error::NotFound {
            path: path.to_owned(),
            source: Box::new(refusal),
        }
    } else {
        generic(refusal)
    })
}

/// A status that is no success, printed as the other clients print theirs: their classification reads it.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    code: Option<String>,
    message: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "non-2xx status code: {}", self.status.as_u16())?;
        if let Some(code) = &self.code {
            write!(formatter, " <Code>{code}</Code>")?;
        }
        if let Some(message) = &self.message {
            write!(formatter, " {message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

fn changed(wanted: Option<&str>, found: Option<&str>) -> bool {
    wanted.is_some() && wanted != found
}

/// The size of the whole file, in the answer to a request for a part of it.
fn total(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.rsplit_once('/')?.1.parse().ok()
}

fn meta(location: Key, size: u64, e_tag: Option<String>) -> ObjectMeta {
    ObjectMeta {
        location,
        last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
        size,
        e_tag,
        version: None,
    }
}

fn generic(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> object_store::Error {
    object_store::Error::Generic {
        store: "web",
        source: error.into(),
    }
}

fn read_only(what: &str) -> object_store::Error {
    object_store::Error::NotSupported {
        source: format!(
            "{what} is not possible over hf:// and https://, which are for reading files"
        )
        .into(),
    }
}

impl fmt::Display for WebStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("web")
    }
}

#[async_trait]
impl ObjectStore for WebStore {
    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
        self.get(location.as_ref(), options).await
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.map(|prefix| prefix.as_ref().to_owned());
        let store = Self {
            client: self.client.clone(),
            source: self.source.clone(),
        };
        stream::once(async move { store.entries(prefix.unwrap_or_default()).await })
            .map_ok(|found| stream::iter(found.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Key>) -> Result<ListResult> {
        Err(read_only("listing one level"))
    }

    async fn put_opts(&self, _: &Key, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(read_only("writing"))
    }

    async fn put_multipart_opts(
        &self,
        _: &Key,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(read_only("writing"))
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
        stream::once(async { Err(read_only("deleting")) }).boxed()
    }

    async fn copy_opts(&self, _: &Key, _: &Key, _: CopyOptions) -> Result<()> {
        Err(read_only("copying"))
    }
}
