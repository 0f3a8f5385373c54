//! Many clients that keep their connections, as a library's connection pool does, and count what fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::wait;

/// Clients that ask in a loop, each on one connection of its own for as long as the server keeps it.
pub struct Clients {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Clients {
    /// Starts `count` clients that post `body` to `url`; whatever is no 200 is a fault.
    pub fn start(count: usize, url: &str, body: &Value) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let good = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for _ in 0..count {
            let client = reqwest::Client::builder()
                .pool_max_idle_per_host(1)
                .timeout(Duration::from_mins(5))
                .build()?;
            let (stop, good, url, body) =
                (stop.clone(), good.clone(), url.to_owned(), body.clone());
            tasks.push(tokio::spawn(async move {
                let mut faults = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match ask(&client, &url, &body).await {
                        Ok(()) => {
                            good.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(fault) => faults.push(format!("{fault:#}")),
                    }
                }
                faults
            }));
        }
        Ok(Self { stop, good, tasks })
    }

    /// Waits until as many answers have come as all clients give in two rounds.
    pub async fn two_rounds(&self) -> Result<()> {
        let wanted = self.good.load(Ordering::Relaxed) + 2 * self.tasks.len() as u64;
        wait::until("two rounds of answers", 600, || async {
            Ok((self.good.load(Ordering::Relaxed) >= wanted).then_some(()))
        })
        .await
    }

    /// Stops them: how many answers there were, and every fault.
    pub async fn finish(self) -> Result<(u64, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut faults = Vec::new();
        for task in self.tasks {
            faults.extend(task.await.context("a client panicked")?);
        }
        Ok((self.good.load(Ordering::Relaxed), faults))
    }
}

async fn ask(client: &reqwest::Client, url: &str, body: &Value) -> Result<()> {
    let response = client.post(url).json(body).send().await?;
    let status = response.status();
    let text = response.text().await?;
    anyhow::ensure!(status == 200, "{status}: {text}");
    Ok(())
}
