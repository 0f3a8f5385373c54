//! Reads a small JSON document from a pod: one second, no redirects, no proxy, a bound on its size. A pod is not
//! trusted: what it answers is checked by the caller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use finetune_artifacts::network;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use super::Error;

/// How long a pod may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most bytes that are read.
const MAX_BYTES: usize = 64 * 1024;
/// Pods read at once.
const READS_AT_ONCE: usize = 16;
/// An answer older than this is of no use to anybody.
const FORGET_AFTER: Duration = Duration::from_mins(1);

/// What a pod answered, and when.
type Answer = (Instant, Result<Bytes, String>);

/// A client for documents of pods.
#[derive(Clone, Debug)]
pub struct PodReader {
    http: reqwest::Client,
    permits: Arc<Semaphore>,
    recent: Arc<Mutex<HashMap<String, Answer>>>,
}

impl PodReader {
    /// A client. Pods are reached directly: a proxy or a redirect would lead elsewhere.
    pub fn new() -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| Error::Connect(error.to_string()))?;
        Ok(Self {
            http,
            permits: Arc::new(Semaphore::new(READS_AT_ONCE)),
            recent: Arc::default(),
        })
    }

    /// The document of `pod` at `http://address:port/path`, or why there is none, in words that do not change from read
    /// to read. A pod that answered less than `age` ago is not asked again.
    pub async fn read<T: DeserializeOwned>(
        &self,
        pod: &str,
        address: &str,
        port: u16,
        path: &str,
        age: Duration,
    ) -> Result<T, String> {
        let url = format!("http://{}:{port}{path}", network::host_in_url(address));
        let key = format!("{pod} {url}");
        let recent = self
            .recent()
            .get(&key)
            .filter(|(read, _)| read.elapsed() < age)
            .cloned();
        let answer = if let Some((_, answer)) = recent {
            answer
        } else {
            let answer = self.ask(&url).await;
            let mut recent = self.recent();
            recent.retain(|_, (read, _)| read.elapsed() < FORGET_AFTER);
            recent.insert(key, (Instant::now(), answer.clone()));
            answer
        };
        serde_json::from_slice(&answer?)
            .map_err(|error| format!("answers what is not the expected JSON: {error}"))
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, HashMap<String, Answer>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, url: &str) -> Result<Bytes, String> {
        // The semaphore is never closed, so that this fails only if it were.
        let _permit = self
            .permits
            .acquire()
            .await
            .map_err(|error| error.to_string())?;
        let mut response = self
            .http
            .get(url)
            .send()
            .await
            .map_err(|error| in_words(&error))?;
        if !response.status().is_success() {
            return Err(format!("answers {}", response.status()));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| in_words(&error))? {
            if bytes.len() + chunk.len() > MAX_BYTES {
                return Err(format!("answers more than {MAX_BYTES} bytes"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.into())
    }
}

/// A request's fault without addresses, ports or times: it goes into a condition, and must not change all the time.
fn in_words(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        "does not answer within 1 s".to_owned()
    } else if error.is_connect() {
        "cannot be reached".to_owned()
    } else {
        "breaks off".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::Router;
    use axum::routing::get;

    use super::*;

    async fn answering(body: String) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicU32::new(0));
        let app = Router::new()
            .route("/same", get(move || async move { body }))
            .route(
                "/count",
                get(move || async move { asked.fetch_add(1, Ordering::SeqCst).to_string() }),
            )
            .route(
                "/moved",
                get(|| async { axum::response::Redirect::temporary("/same") }),
            );
        tokio::spawn(async move { axum::serve(listener, app).await });
        port
    }

    async fn read<T: DeserializeOwned>(
        reader: &PodReader,
        port: u16,
        path: &str,
        age: u64,
    ) -> Result<T, String> {
        reader
            .read("pod", "127.0.0.1", port, path, Duration::from_secs(age))
            .await
    }

    #[tokio::test]
    async fn reads_json_and_refuses_redirects() {
        let port = answering("[1,2]".into()).await;
        let reader = PodReader::new().unwrap();
        assert_eq!(
            read::<Vec<i32>>(&reader, port, "/same", 0).await.unwrap(),
            [1, 2]
        );
        let moved = read::<Vec<i32>>(&reader, port, "/moved", 0).await;
        assert!(moved.unwrap_err().contains("307"));
    }

    #[tokio::test]
    async fn a_pod_is_not_asked_again_too_soon() {
        let port = answering(String::new()).await;
        let reader = PodReader::new().unwrap();
        assert_eq!(read::<u32>(&reader, port, "/count", 60).await, Ok(0));
        assert_eq!(read::<u32>(&reader, port, "/count", 60).await, Ok(0));
        assert_eq!(read::<u32>(&reader, port, "/count", 0).await, Ok(1));
    }

    #[tokio::test]
    async fn refuses_an_answer_that_is_too_long() {
        let port = answering(format!("\"{}\"", "a".repeat(MAX_BYTES))).await;
        let reader = PodReader::new().unwrap();
        assert!(
            read::<String>(&reader, port, "/same", 0)
                .await
                .unwrap_err()
                .contains("more than")
        );
    }

    #[tokio::test]
    async fn says_that_a_pod_cannot_be_reached() {
        let reader = PodReader::new().unwrap();
        assert_eq!(
            read::<String>(&reader, 1, "/", 0).await.unwrap_err(),
            "cannot be reached"
        );
    }
}
