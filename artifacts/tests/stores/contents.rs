//! What a small server holds, and how it answers a read: with the range that was asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use wiremock::{Request, ResponseTemplate};

/// A time, in the form of HTTP.
pub(crate) const MODIFIED: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

/// An object.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) bytes: Vec<u8>,
    /// Another one with each write.
    pub(crate) generation: u64,
}

impl Object {
    pub(crate) fn etag(&self) -> String {
        format!("\"{}\"", self.generation)
    }
}

/// A bucket's objects, and the parts of uploads that are not complete.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) objects: BTreeMap<String, Object>,
    pub(crate) parts: BTreeMap<String, Vec<u8>>,
    /// How many of the next answers are a 503.
    pub(crate) faults: usize,
    generation: u64,
}

impl Contents {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

impl Inner {
    /// Writes an object; gives its entity tag. `None` where one is there and none must be.
    pub(crate) fn put(&mut self, key: &str, bytes: &[u8], only_new: bool) -> Option<String> {
        if only_new && self.objects.contains_key(key) {
            return None;
        }
        self.generation += 1;
        let object = Object {
            bytes: bytes.to_vec(),
            generation: self.generation,
        };
        let etag = object.etag();
        self.objects.insert(key.to_owned(), object);
        Some(etag)
    }
}

/// An answer in XML.
pub(crate) fn xml(status: u16, body: &str) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_raw(body.as_bytes(), "application/xml")
}

/// A refusal with its code.
pub(crate) fn refusal(status: u16, code: &str) -> ResponseTemplate {
    xml(
        status,
        &format!("<Error><Code>{code}</Code><Message>no</Message></Error>"),
    )
}

/// A header of a request.
pub(crate) fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers.get(name)?.to_str().ok()
}

/// A value of a request's query.
pub(crate) fn query(request: &Request, name: &str) -> Option<String> {
    let mut pairs = request.url.query_pairs();
    pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
}

/// The bytes of an object: all, or a range of them.
pub(crate) fn read(request: &Request, object: &Object) -> ResponseTemplate {
    if header(request, "if-match").is_some_and(|wanted| wanted != object.etag()) {
        return refusal(412, "ConditionNotMet");
    }
    let whole = object.bytes.len();
    let answer = |status, bytes: &[u8]| {
        ResponseTemplate::new(status)
            .insert_header("ETag", object.etag().as_str())
            .insert_header("Last-Modified", MODIFIED)
            .set_body_raw(bytes, "application/octet-stream")
    };
    let Some(range) = header(request, "range").and_then(|range| range.strip_prefix("bytes="))
    else {
        return answer(200, &object.bytes);
    };
    let (start, end) = range.split_once('-').unwrap();
    let start: usize = start.parse().unwrap();
    let end = end.parse::<usize>().map_or(whole, |end| whole.min(end + 1));
    answer(206, &object.bytes[start..end]).insert_header(
        "Content-Range",
        format!("bytes {start}-{}/{whole}", end - 1).as_str(),
    )
}

/// Text within XML.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// A path without its escapes.
pub(crate) fn decoded(path: &str) -> String {
    let form = format!("path={path}");
    let mut pairs = url::form_urlencoded::parse(form.as_bytes());
    pairs.next().unwrap().1.into_owned()
}
