//! A server that speaks Azure Blob Storage's API as far as the client uses it: one account with one container, `models`.
//!
//! Source: learn.microsoft.com/rest/api/storageservices.

use finetune_artifacts::credentials::Credentials;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use super::contents::{
    Contents, Inner, MODIFIED, decoded, escaped, header, query, read, refusal, xml,
};

pub(crate) const CONTAINER: &str = "models";
const ACCOUNT: &str = "team";
/// Base64 of a text that opens nothing.
pub(crate) const KEY: &str = "aGlkZGVuLXZhbHVl";

/// The server.
pub(crate) struct Azure {
    pub(crate) server: MockServer,
    pub(crate) contents: Contents,
}

impl Azure {
    pub(crate) async fn start() -> Self {
        let (server, contents) = (MockServer::start().await, Contents::default());
        Mock::given(any())
            .respond_with(Api(contents.clone()))
            .mount(&server)
            .await;
        Self { server, contents }
    }

    /// What a Secret for it would hold.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        settings(&self.server.uri(), ("AZURE_STORAGE_ACCOUNT_KEY", KEY))
    }

    pub(crate) fn credentials(&self) -> Credentials {
        Credentials::from_values(self.settings())
    }
}

pub(crate) fn settings(endpoint: &str, key: (&str, &str)) -> Vec<(String, String)> {
    [
        ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT),
        ("AZURE_STORAGE_ENDPOINT", endpoint),
        ("AZURE_ALLOW_HTTP", "true"),
        ("AZURE_CONTAINER_NAME", "not-this-one"),
        key,
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

struct Api(Contents);

impl Respond for Api {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        // Signed with the account's key, or by a shared access signature.
        let signed = header(request, "authorization")
            .is_some_and(|value| value.starts_with(&format!("SharedKey {ACCOUNT}:")))
            || query(request, "sig").is_some();
        if !signed {
            return refusal(401, "NoAuthenticationInformation");
        }
        let mut contents = self.0.lock();
        if contents.faults > 0 {
            contents.faults -= 1;
            return refusal(503, "ServerBusy");
        }
        let path = request.url.path().trim_start_matches('/').to_owned();
        let (container, key) = path.split_once('/').unwrap_or((&path, ""));
        if container != CONTAINER {
            return refusal(404, "ContainerNotFound");
        }
        let key = decoded(key);
        match (request.method.as_str(), query(request, "comp").as_deref()) {
            ("GET", Some("list")) => list(request, &contents),
            ("GET", None) => match contents.objects.get(&key) {
                Some(object) => read(request, object),
                None => refusal(404, "BlobNotFound"),
            },
            ("PUT", Some("block")) => {
                let block = query(request, "blockid").unwrap();
                contents.parts.insert(block, request.body.clone());
                ResponseTemplate::new(201).insert_header("ETag", "\"block\"")
            }
            ("PUT", Some("blocklist")) => {
                let bytes = blocks(request, &contents);
                created(contents.put(&key, &bytes, false))
            }
            ("PUT", None) => {
                let only_new = header(request, "if-none-match") == Some("*");
                created(contents.put(&key, &request.body, only_new))
            }
            ("POST", Some("batch")) => delete(request, &mut contents),
            other => panic!("{other:?} {path} is not part of the API"),
        }
    }
}

fn created(etag: Option<String>) -> ResponseTemplate {
    match etag {
        Some(etag) => ResponseTemplate::new(201)
            .insert_header("ETag", etag.as_str())
            .insert_header("Last-Modified", MODIFIED),
        None => refusal(409, "BlobAlreadyExists"),
    }
}

/// The blocks that a list names, in its order.
fn blocks(request: &Request, contents: &Inner) -> Vec<u8> {
    let list = String::from_utf8_lossy(&request.body).into_owned();
    let names = list
        .split("<Uncommitted>")
        .skip(1)
        .map(|rest| rest.split('<').next().unwrap());
    names
        .flat_map(|name| contents.parts[name].clone())
        .collect()
}

/// Two entries a page, so that a listing has several.
fn list(request: &Request, contents: &Inner) -> ResponseTemplate {
    let prefix = query(request, "prefix").unwrap_or_default();
    let after = query(request, "marker").unwrap_or_default();
    let mut found = contents
        .objects
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix) && **key > after);
    let page: Vec<_> = found.by_ref().take(2).collect();
    let entries: Vec<String> = page
        .iter()
        .map(|(key, object)| {
            format!(
                "<Blob><Name>{}</Name><Properties><Last-Modified>{MODIFIED}</Last-Modified><Etag>{}</Etag>\
                 <Content-Length>{}</Content-Length><Content-Type>application/octet-stream</Content-Type>\
                 </Properties></Blob>",
                escaped(key),
                object.generation,
                object.bytes.len()
            )
        })
        .collect();
    let entries = entries.concat();
    let next = match (found.next(), page.last()) {
        (Some(_), Some((key, _))) => escaped(key),
        _ => String::new(),
    };
    xml(
        200,
        &format!(
            "<EnumerationResults><Blobs>{entries}</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>"
        ),
    )
}

/// Many deletions in one request, each a request of its own within the body.
fn delete(request: &Request, contents: &mut Inner) -> ResponseTemplate {
    let body = String::from_utf8_lossy(&request.body).into_owned();
    let mut parts = Vec::new();
    for (number, line) in body
        .lines()
        .filter(|line| line.starts_with("DELETE "))
        .enumerate()
    {
        let path = line.split(' ').nth(1).unwrap();
        let path = path.split('?').next().unwrap();
        let key = path.trim_start_matches('/').split_once('/').unwrap().1;
        let status = match contents.objects.remove(&decoded(key)) {
            Some(_) => "202 Accepted",
            None => "404 The specified blob does not exist.",
        };
        parts.push(format!(
            "--answer\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\nHTTP/1.1 {status}\r\n\r\n"
        ));
    }
    let answer = format!("{}--answer--\r\n", parts.concat());
    ResponseTemplate::new(202).set_body_raw(answer.as_bytes(), "multipart/mixed; boundary=answer")
}
