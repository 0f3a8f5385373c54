//! Talking to an OpenAI-compatible server, and a steady stream of requests that counts what goes wrong.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::wait;

/// One question, greedy. The answer, or the status and body of a refusal.
pub async fn ask(
    client: &reqwest::Client,
    url: &str,
    model: &str,
    question: &str,
    max_tokens: u32,
) -> Result<Result<String, (u16, String)>> {
    let body = json!({
        "model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": max_tokens,
    });
    let response = client
        .post(format!("{url}/v1/chat/completions"))
        .json(&body)
        .send()
        .await?;
    let status = response.status().as_u16();
    let text = response.text().await?;
    if status != 200 {
        return Ok(Err((status, text)));
    }
    let answer: Value = serde_json::from_str(&text)?;
    Ok(Ok(answer["choices"][0]["message"]["content"]
        .as_str()
        .context("no content")?
        .to_owned()))
}

/// A client that opens a new connection for each request, as clients behind a Service do.
pub fn client() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_mins(10))
        .build()?)
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
    /// Asks `question` again and again; an answer without `expected` in it, or none, is a fault.
    pub fn start(
        url: String,
        model: String,
        question: String,
        expected: Vec<String>,
    ) -> Result<Self> {
        let client = client()?;
        let stop = Arc::new(AtomicBool::new(false));
        let good = Arc::new(AtomicU64::new(0));
        let faults = Arc::new(Mutex::new(Vec::new()));
        let (halt, count, wrong) = (Arc::clone(&stop), Arc::clone(&good), Arc::clone(&faults));
        let task = tokio::spawn(async move {
            while !halt.load(Ordering::Relaxed) {
                match ask(&client, &url, &model, &question, 16).await {
                    Ok(Ok(answer))
                        if expected
                            .iter()
                            .any(|e| answer.to_lowercase().contains(&e.to_lowercase())) =>
                    {
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
