//! The attempt claim: at most one live trainer of a job counts.
//!
//! Each process that trains claims the next number in the passing folder (create-if-absent). A higher claim makes every
//! lower one stop before it completes anything more. An attempt writes only below its own number.

use bytes::Bytes;
use finetune_artifacts::store::{Creation, Store};
use finetune_crds::contract::{OutcomeReason, layout};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// One attempt of this process to train the job.
#[derive(Debug)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// What this process wrote: another process's claim of the same number is thereby told apart.
    claim: Claim,
    passing: Store,
}

/// `claim.json`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Claim {
    /// The pod or host, and the process in it.
    holder: String,
    /// When, in RFC 3339.
    claimed_at: String,
}

impl Attempt {
    /// Claims the number after the highest that was claimed in `passing`.
    pub async fn claim(
        passing: &Store,
        holder: String,
        now: jiff::Timestamp,
    ) -> Result<Self, Failure> {
        let claim = Claim {
            holder,
            claimed_at: now.to_string(),
        };
        let mut number = highest(passing).await? + 1;
        let bytes = Bytes::from(serde_json::to_vec(&claim).map_err(Failure::internal)?);
        while passing.create(&claim_path(number), bytes.clone()).await? == Creation::AlreadyExists {
            number += 1;
        }
        Ok(Self {
            number,
            claim,
            passing: passing.clone(),
        })
    }

    /// Fails with `Superseded` once another process has claimed a higher number, or has finished the job and removed the
    /// passing folder. To be asked before anything is completed.
    pub async fn ensure_newest(&self) -> Result<(), Failure> {
        let next = self.number + 1;
        if let Some(bytes) = self.passing.read_optional(&claim_path(next)).await? {
            let holder = serde_json::from_slice::<Claim>(&bytes)
                .map_or_else(|_| "another process".to_owned(), |claim| claim.holder);
            return Err(Failure::new(
                OutcomeReason::Superseded,
                format!(
                    "attempt {} stops: {holder} has claimed attempt {next}",
                    self.number
                ),
            ));
        }
        let own = self.passing.read_optional(&claim_path(self.number)).await?;
        let ours = own.and_then(|bytes| serde_json::from_slice::<Claim>(&bytes).ok());
        if ours.as_ref() != Some(&self.claim) {
            return Err(Failure::new(
                OutcomeReason::Superseded,
                format!(
                    "attempt {} stops: its claim in {} is gone, so another process has finished the job",
                    self.number,
                    self.passing.uri()
                ),
            ));
        }
        Ok(())
    }

    /// The attempt's folder, below the passing one.
    pub fn folder(&self) -> String {
        layout::attempt_folder(self.number)
    }
}

/// The highest number that was claimed; 0 where none was.
async fn highest(passing: &Store) -> Result<u32, Failure> {
    let entries = passing.list(layout::ATTEMPTS).await?;
    Ok(entries
        .iter()
        .filter_map(|entry| number_of(&entry.path))
        .max()
        .unwrap_or(0))
}

/// The attempt's number in a path such as `attempts/000003/claim.json`.
pub(crate) fn number_of(path: &str) -> Option<u32> {
    path.strip_prefix(layout::ATTEMPTS)?
        .split('/')
        .next()?
        .parse()
        .ok()
}

fn claim_path(number: u32) -> String {
    format!("{}{}", layout::attempt_folder(number), layout::CLAIM)
}

#[cfg(test)]
mod tests {
    use finetune_artifacts::credentials::Credentials;

    use super::*;

    fn store(folder: &tempfile::TempDir) -> Store {
        Store::open(
            &format!("file://{}/", folder.path().display()),
            &Credentials::default(),
        )
        .unwrap()
    }

    #[tokio::test]
    async fn a_second_claim_stops_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let passing = store(&folder);
        let now = jiff::Timestamp::UNIX_EPOCH;
        let first = Attempt::claim(&passing, "a".into(), now).await.unwrap();
        first.ensure_newest().await.unwrap();
        let second = Attempt::claim(&passing, "b".into(), now).await.unwrap();
        assert_eq!((first.number, second.number), (1, 2));
        let failure = first.ensure_newest().await.unwrap_err();
        assert_eq!(failure.reason, OutcomeReason::Superseded);
        assert!(
            failure.message.contains("b has claimed attempt 2"),
            "{failure}"
        );
        second.ensure_newest().await.unwrap();
    }

    #[tokio::test]
    async fn a_claim_that_is_gone_stops_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let passing = store(&folder);
        let attempt = Attempt::claim(&passing, "a".into(), jiff::Timestamp::UNIX_EPOCH)
            .await
            .unwrap();
        passing.delete_below("").await.unwrap();
        assert_eq!(
            attempt.ensure_newest().await.unwrap_err().reason,
            OutcomeReason::Superseded
        );
    }

    #[test]
    fn the_number_is_read_out_of_a_path() {
        assert_eq!(number_of("attempts/000003/claim.json"), Some(3));
        assert_eq!(number_of("prepared/report.json"), None);
    }
}
