//! A server that speaks Google Cloud Storage's XML API as far as the client uses it: one bucket, `models`.
//!
//! Source: cloud.google.com/storage/docs/xml-api.

use finetune_artifacts::credentials::Credentials;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use super::contents::{Contents, Inner, decoded, escaped, header, query, read, refusal, xml};

pub(crate) const BUCKET: &str = "models";
/// A key made for these tests alone; it opens nothing.
const PRIVATE_KEY: &str = include_str!("google-test-key.pem");

/// The server.
pub(crate) struct Google {
    pub(crate) server: MockServer,
    pub(crate) contents: Contents,
}

impl Google {
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
        settings(&self.server.uri(), &service_account_key())
    }

    pub(crate) fn credentials(&self) -> Credentials {
        Credentials::from_values(self.settings())
    }
}

pub(crate) fn settings(endpoint: &str, key: &str) -> Vec<(String, String)> {
    [
        ("GOOGLE_SERVICE_ACCOUNT_KEY", key),
        ("GOOGLE_BASE_URL", endpoint),
        ("GOOGLE_ALLOW_HTTP", "true"),
        ("GOOGLE_BUCKET", "not-this-one"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// As Google hands it out.
pub(crate) fn service_account_key() -> String {
    serde_json::json!({
        "type": "service_account",
        "private_key_id": "1",
        "private_key": PRIVATE_KEY,
        "client_email": "trainer@project.iam.gserviceaccount.com",
    })
    .to_string()
}

struct Api(Contents);

impl Respond for Api {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        // A token of three parts, signed with the key.
        let signed = header(request, "authorization")
            .and_then(|value| value.strip_prefix("Bearer "))
            .is_some_and(|token| token.split('.').count() == 3);
        if !signed {
            return refusal(401, "AuthenticationRequired");
        }
        let mut contents = self.0.lock();
        if contents.faults > 0 {
            contents.faults -= 1;
            return refusal(503, "SlowDown");
        }
        let path = request.url.path().trim_start_matches('/').to_owned();
        let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
        if bucket != BUCKET {
            return refusal(404, "NoSuchBucket");
        }
        let key = decoded(key);
        match request.method.as_str() {
            "GET" if key.is_empty() => list(request, &contents),
            "GET" => match contents.objects.get(&key) {
                Some(object) => read(request, object)
                    .insert_header("x-goog-generation", object.generation.to_string().as_str()),
                None => refusal(404, "NoSuchKey"),
            },
            "PUT" => put(request, &mut contents, &key),
            "POST" => post(request, &mut contents, &key),
            "DELETE" => match contents.objects.remove(&key) {
                Some(_) => ResponseTemplate::new(204),
                None => refusal(404, "NoSuchKey"),
            },
            other => panic!("{other} {path} is not part of the API"),
        }
    }
}

/// Two entries a page, so that a listing has several.
fn list(request: &Request, contents: &Inner) -> ResponseTemplate {
    let prefix = query(request, "prefix").unwrap_or_default();
    let after = query(request, "continuation-token").unwrap_or_default();
    let mut found = contents
        .objects
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix) && **key > after);
    let page: Vec<_> = found.by_ref().take(2).collect();
    let entries: Vec<String> = page
        .iter()
        .map(|(key, object)| {
            format!(
                "<Contents><Key>{}</Key><Size>{}</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                 <ETag>{}</ETag></Contents>",
                escaped(key),
                object.bytes.len(),
                object.etag()
            )
        })
        .collect();
    let entries = entries.concat();
    let next = match (found.next(), page.last()) {
        (Some(_), Some((key, _))) => {
            format!(
                "<NextContinuationToken>{}</NextContinuationToken>",
                escaped(key)
            )
        }
        _ => String::new(),
    };
    xml(
        200,
        &format!("<ListBucketResult>{entries}{next}</ListBucketResult>"),
    )
}

fn put(request: &Request, contents: &mut Inner, key: &str) -> ResponseTemplate {
    if let (Some(upload), Some(part)) = (query(request, "uploadId"), query(request, "partNumber")) {
        let name = format!("{upload}/{part:0>5}");
        contents.parts.insert(name, request.body.clone());
        return ResponseTemplate::new(200).insert_header("ETag", format!("\"{part}\"").as_str());
    }
    let only_new = header(request, "x-goog-if-generation-match") == Some("0");
    match contents.put(key, &request.body, only_new) {
        Some(etag) => ResponseTemplate::new(200).insert_header("ETag", etag.as_str()),
        None => refusal(412, "PreconditionFailed"),
    }
}

fn post(request: &Request, contents: &mut Inner, key: &str) -> ResponseTemplate {
    let Some(upload) = query(request, "uploadId") else {
        let body = "<InitiateMultipartUploadResult><UploadId>upload</UploadId></InitiateMultipartUploadResult>";
        return xml(200, body);
    };
    let wanted = String::from_utf8_lossy(&request.body)
        .matches("<PartNumber>")
        .count();
    let parts: Vec<_> = contents
        .parts
        .iter()
        .filter(|(name, _)| name.starts_with(&upload))
        .map(|(_, bytes)| bytes.clone())
        .collect();
    assert_eq!(parts.len(), wanted);
    let etag = contents.put(key, &parts.concat(), false).unwrap();
    xml(
        200,
        &format!(
            "<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>"
        ),
    )
}
