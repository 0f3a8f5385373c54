//! From the client's errors to ours: whose turn it is, and what to do.
//!
//! Decided by status and by S3's error codes. The client keeps both in private types, so they are read from what it
//! prints; a test for each status shows that a new version of the client still prints them.

use std::error::Error as StdError;
use std::io::ErrorKind;

use object_store::client::HttpError;

use crate::error::Error;
use crate::uri::Location;

use super::Store;

/// S3's codes of a 400 that speak of the keys.
const KEY_FAULTS: [&str; 7] = [
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "XAmzContentSHA256Mismatch",
];

impl Store {
    /// Our error for what the client said about `path`.
    pub(super) fn classify(&self, error: &object_store::Error, path: &str) -> Error {
        let uri = self.uri_of(path);
        let text = error.to_string();
        if let Some(status) = status(&text) {
            return self.classify_status(uri, status, &text);
        }
        // Without keys the client asks the machine's metadata service for an identity.
        if self.keyless() && text.contains("169.254.169.254") {
            return self.no_identity(uri, error);
        }
        if let Some(cause) = find::<HttpError>(error) {
            return Error::Unavailable {
                uri,
                cause: root(cause),
            };
        }
        if let Location::File { path: folder, .. } = &self.location {
            return match find::<std::io::Error>(error).map(std::io::Error::kind) {
                Some(ErrorKind::NotFound) => Error::ObjectNotFound { uri },
                kind => Error::local(
                    "use",
                    &folder.join(path),
                    std::io::Error::new(kind.unwrap_or(ErrorKind::Other), error.to_string()),
                ),
            };
        }
        match error {
            object_store::Error::NotFound { .. } => Error::ObjectNotFound { uri },
            object_store::Error::Precondition { .. } => Error::Unavailable {
                uri,
                cause: "it was changed while it was read".into(),
            },
            object_store::Error::InvalidPath { .. }
            | object_store::Error::NotSupported { .. }
            | object_store::Error::NotImplemented { .. } => Error::invalid(uri, error.to_string()),
            _ => Error::Unavailable { uri, cause: text },
        }
    }

    fn classify_status(&self, uri: String, status: u16, body: &str) -> Error {
        let code = code(body);
        let said = code.map_or_else(|| format!("status {status}"), str::to_owned);
        match (status, code) {
            (404, Some("NoSuchBucket")) => Error::BucketNotFound {
                bucket: self.bucket(),
                endpoint: self.endpoint(),
                uri,
            },
            (404, _) => Error::ObjectNotFound { uri },
            (401 | 403, _) if matches!(self.location, Location::Https { .. }) => Error::invalid(
                uri,
                format!(
                    "its server refuses it ({said}): a signed URL may have expired, then make a new one"
                ),
            ),
            (401 | 403, _) => Error::CredentialsRefused {
                uri,
                code: said,
                keys: self.keys(),
                origin: self.credentials.origin(),
            },
            (400, Some(fault)) if KEY_FAULTS.contains(&fault) => Error::CredentialsRefused {
                uri,
                code: said,
                keys: self.keys(),
                origin: self.credentials.origin(),
            },
            (501, _) => Error::invalid(
                uri,
                format!(
                    "the store does not know what was asked of it ({said}): it must support conditional writes"
                ),
            ),
            // A conflict is two writers at once; the next try sees who won.
            (408 | 409 | 412 | 425 | 429 | 500.., _) => Error::Unavailable { uri, cause: said },
            _ => Error::invalid(uri, format!("the store refused the request with {said}")),
        }
    }

    /// Whether requests depend on the pod's own identity.
    fn keyless(&self) -> bool {
        matches!(self.location, Location::S3 { .. })
            && self.credentials.get("AWS_ACCESS_KEY_ID").is_none()
            && self.credentials.get("AWS_SKIP_SIGNATURE").is_none()
    }

    fn no_identity(&self, uri: String, error: &object_store::Error) -> Error {
        Error::CredentialsMissing {
            origin: self.credentials.origin(),
            keys: "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".into(),
            uri,
            cure: format!(
                "set them, or name a Secret that holds them, or give the pod an identity that the store knows ({})",
                root(error)
            ),
        }
    }

    /// The keys with which this store is asked.
    const fn keys(&self) -> &'static str {
        match &self.location {
            Location::Hub { .. } => {
                "the repository's name, whether its terms were accepted, and HF_TOKEN"
            }
            Location::S3 { .. } | Location::File { .. } | Location::Https { .. } => {
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION"
            }
        }
    }

    fn bucket(&self) -> String {
        match &self.location {
            Location::S3 { bucket, .. } => bucket.clone(),
            Location::File { .. } | Location::Hub { .. } | Location::Https { .. } => String::new(),
        }
    }

    fn endpoint(&self) -> String {
        let endpoint = self.credentials.get("AWS_ENDPOINT_URL");
        endpoint.unwrap_or("AWS").to_owned()
    }
}

/// The first error of a type in the chain.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// What the innermost error says: the outer ones repeat it, with the URL.
fn root(error: &dyn StdError) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The status of the store's answer, in what the client prints.
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("non-2xx status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// The code in S3's XML error.
fn code(body: &str) -> Option<&str> {
    let (_, rest) = body.split_once("<Code>")?;
    rest.split_once("</Code>").map(|(code, _)| code)
}
