//! From the client's errors to ours: whose turn it is, and what to do.
//!
//! Decided by status and by the error codes of S3, Google and Azure, all in XML. The client keeps both in private types, so
//! they are read from what it prints; a test for each status shows that a new version of the client still prints them.

use std::error::Error as StdError;
use std::io::ErrorKind;

use object_store::client::HttpError;

use crate::error::Error;
use crate::uri::{Location, Provider};

use super::Store;
use super::claims::{self, Circle, LeadsOut};

/// The codes of a 400 that speak of the keys.
const KEY_FAULTS: [&str; 9] = [
    "AuthenticationFailed",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidAuthenticationInfo",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "XAmzContentSHA256Mismatch",
];

/// What the client says of a link that leads to a folder above it, before the link.
const WALKED_IN_A_CIRCLE: &str = "File system loop found: ";

/// `ELOOP`, which the standard library gives no kind: a link that leads to itself.
const LINKS_TO_ITSELF: &str = "(os error 40)";

/// The hosts that a client without keys asks for the machine's identity.
const IDENTITY_HOSTS: [&str; 2] = ["http://169.254.169.254", "http://metadata.google.internal"];

impl Store {
    /// Our error for what the client said about `path`.
    pub(super) fn classify(&self, error: &object_store::Error, path: &str) -> Error {
        let uri = self.uri_of(path);
        let text = error.to_string();
        // Whatever is wrong there, its status says nothing of the object.
        if IDENTITY_HOSTS.iter().any(|host| text.contains(host)) {
            return self.no_identity(uri, error);
        }
        if let Some(status) = status(&text) {
            return self.classify_status(uri, status, &text);
        }
        if let Some(cause) = find::<HttpError>(error) {
            return Error::Unavailable {
                uri,
                cause: root(cause),
            };
        }
        if let (Location::Claim { claim, .. }, Some(LeadsOut(link))) = (&self.location, find(error))
        {
            return Error::invalid(
                format!("pvc://{claim}/{}", link.display()),
                "leads out of the claim: copy the file there",
            );
        }
        if let Some(folder) = claims::local_folder(&self.location) {
            if let Some(problem) = lasting(error, &text) {
                return Error::invalid(uri, problem);
            }
            let cause = match find::<std::io::Error>(error) {
                Some(cause) if cause.kind() == ErrorKind::NotFound => {
                    return Error::ObjectNotFound { uri };
                }
                // What the client says around it is the path once more, and names of its own.
                Some(cause) => same(cause),
                None => std::io::Error::other(text),
            };
            return Error::local("use", &folder.join(path), cause);
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
            (404, Some("NoSuchBucket" | "ContainerNotFound")) => self.no_bucket(uri),
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

    fn no_identity(&self, uri: String, error: &object_store::Error) -> Error {
        Error::CredentialsMissing {
            origin: self.credentials.origin(),
            keys: match self.provider() {
                None | Some(Provider::S3) => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                Some(Provider::Google) => "GOOGLE_SERVICE_ACCOUNT_KEY",
                Some(Provider::Azure) => "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
            }
            .into(),
            uri,
            cure: format!(
                "set what is missing, or name a Secret that holds it, or give the pod an identity that the store knows ({})",
                root(error)
            ),
        }
    }

    fn no_bucket(&self, uri: String) -> Error {
        let setting = |name: &str| self.credentials.get(name).filter(|value| !value.is_empty());
        let (word, bucket) = match &self.location {
            Location::Bucket {
                provider, bucket, ..
            } => (provider.bucket_word(), bucket.clone()),
            _ => ("bucket", String::new()),
        };
        let endpoint = match self.provider() {
            None | Some(Provider::S3) => setting("AWS_ENDPOINT_URL").unwrap_or("AWS").to_owned(),
            Some(Provider::Google) => setting("GOOGLE_BASE_URL")
                .unwrap_or("Google Cloud Storage")
                .to_owned(),
            Some(Provider::Azure) => setting("AZURE_STORAGE_ENDPOINT").map_or_else(
                || {
                    let account = setting("AZURE_STORAGE_ACCOUNT_NAME").unwrap_or_default();
                    format!("the Azure account `{account}`")
                },
                str::to_owned,
            ),
        };
        Error::BucketNotFound {
            word,
            bucket,
            endpoint,
            uri,
        }
    }

    const fn provider(&self) -> Option<Provider> {
        match &self.location {
            Location::Bucket { provider, .. } => Some(*provider),
            _ => None,
        }
    }

    /// The keys with which this store is asked.
    const fn keys(&self) -> &'static str {
        match &self.location {
            Location::Hub { .. } => {
                "the repository's name, whether its terms were accepted, and HF_TOKEN"
            }
            Location::Bucket {
                provider: Provider::Google,
                ..
            } => "GOOGLE_SERVICE_ACCOUNT_KEY",
            Location::Bucket {
                provider: Provider::Azure,
                ..
            } => {
                "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN"
            }
            _ => "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION",
        }
    }
}

/// What is wrong with a local folder until somebody changes it.
fn lasting(error: &object_store::Error, text: &str) -> Option<String> {
    if let object_store::Error::InvalidPath { source } = error {
        use object_store::path::Error as Fault;
        let path = match source {
            Fault::EmptySegment { path }
            | Fault::BadSegment { path, .. }
            | Fault::NonUnicode { path, .. } => path.trim_start_matches('/').escape_debug(),
            _ => return Some(source.to_string()),
        };
        return Some(format!(
            "a file below it is called `/{path}`, expected a name in UTF-8 without control characters such as line ends: rename \
             it"
        ));
    }
    let circle = text
        .split_once(WALKED_IN_A_CIRCLE)
        .map(|(_, links)| links.to_owned())
        .or_else(|| find::<Circle>(error).map(Circle::to_string))
        .or_else(|| {
            let place = text.split_once("IO error for operation on ");
            let said = || place.map_or_else(|| root(error), |(_, said)| said.to_owned());
            text.contains(LINKS_TO_ITSELF).then(said)
        })?;
    Some(format!(
        "its links lead in a circle ({circle}): delete the link that closes it"
    ))
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

/// The system's error once more, which cannot be cloned.
fn same(error: &std::io::Error) -> std::io::Error {
    error.raw_os_error().map_or_else(
        || std::io::Error::new(error.kind(), error.to_string()),
        std::io::Error::from_raw_os_error,
    )
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

/// The code in a store's XML error: S3, Google and Azure write it alike, and so does our reader of the Hub.
fn code(body: &str) -> Option<&str> {
    let (_, rest) = body.split_once("<Code>")?;
    rest.split_once("</Code>").map(|(code, _)| code)
}
