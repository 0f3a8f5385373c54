//! Talking to an OpenAI-compatible server, and a steady stream of requests that counts what goes wrong.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::wait;

/// What was said, and which version of an adapter said it; none where the base did.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// What the agent's header names.
    pub version: Option<String>,
}

/// One question, greedy. The answer's text, or the status and body of a refusal.
pub async fn ask(
    client: &reqwest::Client,
    url: &str,
    model: &str,
    question: &str,
    max_tokens: u32,
) -> Result<Result<String, (u16, String)>> {
    let answer = ask_version(client, url, model, question, max_tokens).await?;
    Ok(answer.map(|answer| answer.text))
}

/// The same with the version.
pub async fn ask_version(
    client: &reqwest::Client,
    url: &str,
    model: &str,
    question: &str,
    max_tokens: u32,
) -> Result<Result<Answer, (u16, String)>> {
    let body = json!({
        "model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": max_tokens,
    });
    let response = client
        .post(format!("{url}/v1/chat/completions"))
        .json(&body)
        .send()
        .await?;
    let status = response.status().as_u16();
    let version = response.headers().get("x-finetune-version");
    let version = version.and_then(|value| value.to_str().ok().map(str::to_owned));
    let text = response.text().await?;
    if status != 200 {
        return Ok(Err((status, text)));
    }
    let answer: Value = serde_json::from_str(&text)?;
    let text = answer["choices"][0]["message"]["content"].as_str();
    Ok(Ok(Answer {
        text: text.context("no content")?.to_owned(),
        version,
    }))
}

/// A client that opens a new connection for each request, as clients behind a Service do.
pub fn client() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_mins(10))
        .build()?)
}

/// Which answers are as they should be.
#[derive(Clone, Debug)]
pub enum Expected {
    /// Those that hold these words.
    Words(String),
    /// Those of any version of the adapter, whatever it says.
    AnyVersion,
}

impl Expected {
    fn holds(&self, answer: &Answer) -> bool {
        match self {
            Self::Words(words) => answer.text.to_lowercase().contains(&words.to_lowercase()),
            Self::AnyVersion => answer.version.is_some(),
        }
    }
}

/// Requests in a loop until told to stop.
pub struct Stream {
    stop: Arc<AtomicBool>,
    /// Requests answered as expected.
    pub good: Arc<AtomicU64>,
    faults: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Stream {
    /// Asks `question` again and again; an answer that is not as expected, or none, is a fault.
    pub fn start(url: String, model: String, question: String, expected: Expected) -> Result<Self> {
        let client = client()?;
        let stop = Arc::new(AtomicBool::new(false));
        let good = Arc::new(AtomicU64::new(0));
        let faults = Arc::new(Mutex::new(Vec::new()));
        let (halt, count, wrong) = (Arc::clone(&stop), Arc::clone(&good), Arc::clone(&faults));
        let task = tokio::spawn(async move {
            while !halt.load(Ordering::Relaxed) {
                match ask_version(&client, &url, &model, &question, 16).await {
                    Ok(Ok(answer)) if expected.holds(&answer) => {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    other => lock(&wrong).push(format!("{other:?}")),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Ok(Self {
            stop,
            good,
            faults,
            task,
        })
    }

    /// Waits until `more` requests were answered as expected from now on.
    pub async fn answered(&self, more: u64) -> Result<()> {
        let wanted = self.good.load(Ordering::Relaxed) + more;
        wait::until(&format!("{wanted} answers"), 900, || async {
            if self.good.load(Ordering::Relaxed) >= wanted {
                return Ok(Some(()));
            }
            match lock(&self.faults).last() {
                Some(fault) => bail!("the last fault was {fault}"),
                None => Ok(None),
            }
        })
        .await
    }

    /// Stops, and returns how many requests were answered and what went wrong.
    pub async fn finish(self) -> Result<(u64, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?;
        let faults = std::mem::take(&mut *lock(&self.faults));
        Ok((self.good.load(Ordering::Relaxed), faults))
    }
}

fn lock(faults: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    faults.lock().unwrap_or_else(PoisonError::into_inner)
}
