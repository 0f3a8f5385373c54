//! Leader election on a Lease. At most one process acts: a leader that cannot renew ends itself before anybody else may
//! take over. Never judges another holder by its clock, only by how long its Lease stood still on ours.
//!
//! RBAC: `get`, `create` and `update` leases.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Which Lease, by whom, for how long.
#[derive(Clone, Debug)]
pub struct LeaseSettings {
    /// Where the Lease is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who we are; unique to this process.
    pub holder: String,
    /// How long a Lease that stands still keeps others away.
    pub duration: Duration,
}

/// A candidate for the Lease, and after [`Self::acquire`] its holder.
pub struct Candidate {
    api: Api<Lease>,
    settings: LeaseSettings,
    now: fn() -> Timestamp,
    /// What was last seen of the Lease, and since when it is so.
    seen: Option<(Lease, Instant)>,
    /// When our own claim, by our own clock, is no longer good.
    expiry: Instant,
}

/// What to do about a Lease.
#[derive(Debug, Eq, PartialEq)]
enum Move {
    Create,
    Take,
    Wait,
}

impl Candidate {
    /// A candidate that has claimed nothing yet.
    pub fn new(client: Client, settings: LeaseSettings, now: fn() -> Timestamp) -> Self {
        Self {
            api: Api::namespaced(client, &settings.namespace),
            settings,
            now,
            seen: None,
            expiry: Instant::now(),
        }
    }

    /// Waits until the Lease is ours. `reached` is called whenever the API server has answered.
    pub async fn acquire(&mut self, reached: impl Fn()) {
        loop {
            let started = Instant::now();
            match tokio::time::timeout(self.third(), self.try_acquire(started)).await {
                Ok(Ok(true)) => {
                    reached();
                    return;
                }
                Ok(Ok(false)) => reached(),
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = self.settings.name, "cannot claim the lease");
                }
                Err(_) => tracing::warn!(
                    lease = self.settings.name,
                    "cannot claim the lease: no answer"
                ),
            }
            tokio::time::sleep(self.settings.duration / 5).await;
        }
    }

    /// Runs `work` while a task of its own keeps the Lease, so that work which holds its thread for long does not lose it; then gives
    /// the Lease up.
    ///
    /// If the Lease is lost, `lost` is called in that task, at once, with the reason; should it return, the reason is the error.
    pub async fn lead<T>(
        mut self,
        work: impl Future<Output = T>,
        lost: impl FnOnce(&str) + Send + 'static,
    ) -> Result<T, String> {
        let done = CancellationToken::new();
        let stop = done.clone();
        let mut keeper = tokio::spawn(async move {
            let why = tokio::select! {
                why = self.keep() => why,
                () = stop.cancelled() => return Ok(self),
            };
            lost(&why);
            Err(why)
        });
        let outcome = tokio::select! {
            kept = &mut keeper => return Err(match kept {
                Ok(Err(why)) => why,
                Ok(Ok(_)) | Err(_) => "the task that renews the lease ended".to_owned(),
            }),
            outcome = work => outcome,
        };
        done.cancel();
        match keeper.await {
            Ok(Ok(mut candidate)) => {
                candidate.release().await;
                Ok(outcome)
            }
            Ok(Err(why)) => Err(why),
            Err(error) => Err(format!("the task that renews the lease ended: {error}")),
        }
    }

    /// Renews the Lease at a third of its duration. Returns why, once it is lost; never otherwise.
    ///
    /// Our claim ends, for us, after two thirds of the duration without a renewal: the last third is the margin in which
    /// this process ends before another may begin.
    pub async fn keep(&mut self) -> String {
        let mut next = self.third();
        loop {
            let expiry = self.expiry;
            let renewed = tokio::time::timeout_at(expiry, async {
                tokio::time::sleep(next).await;
                let started = Instant::now();
                (self.renew().await, started)
            })
            .await;
            match renewed {
                Ok((Ok(true), started)) => {
                    self.expiry = self.good_until(started);
                    next = self.third();
                }
                Ok((Ok(false), _)) => {
                    let holder = self
                        .seen
                        .as_ref()
                        .map(|(lease, _)| holder(lease).to_owned());
                    return format!(
                        "the lease {}/{} is now held by `{}`",
                        self.settings.namespace,
                        self.settings.name,
                        holder.unwrap_or_default()
                    );
                }
                Ok((Err(error), _)) => {
                    tracing::warn!(%error, lease = self.settings.name, "cannot renew the lease");
                    next = self.settings.duration / 15;
                }
                Err(_) => {
                    return format!(
                        "the lease {}/{} could not be renewed in time",
                        self.settings.namespace, self.settings.name
                    );
                }
            }
        }
    }

    /// Gives the Lease up, so that another need not wait. Best effort: it expires anyway.
    pub async fn release(&mut self) {
        let Some((lease, _)) = self.seen.clone() else {
            return;
        };
        let mut given_up = lease;
        given_up.spec.get_or_insert_default().holder_identity = Some(String::new());
        let replaced = self.replace(given_up);
        if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(2), replaced).await {
            tracing::warn!(%error, "cannot release the lease; it expires by itself");
        }
    }

    fn third(&self) -> Duration {
        self.settings.duration / 3
    }

    fn good_until(&self, started: Instant) -> Instant {
        started + self.settings.duration * 2 / 3
    }

    /// One try to claim; `false` means that another holds it.
    async fn try_acquire(&mut self, started: Instant) -> Result<bool, kube::Error> {
        let current = self.api.get_opt(&self.settings.name).await?;
        let unchanged = match (&current, &self.seen) {
            (Some(lease), Some((seen, since)))
                if lease.resource_version() == seen.resource_version() =>
            {
                since.elapsed()
            }
            _ => Duration::ZERO,
        };
        let claimed = match (
            decide(current.as_ref(), &self.settings.holder, unchanged),
            current,
        ) {
            (Move::Take, Some(lease)) => self.replace(self.claim(Some(lease))).await,
            (Move::Create, _) => {
                let lease = self.claim(None);
                self.api.create(&PostParams::default(), &lease).await
            }
            (_, current) => {
                if let Some(lease) = current
                    && unchanged.is_zero()
                {
                    tracing::debug!(holder = holder(&lease), "another process leads");
                    self.seen = Some((lease, started));
                }
                return Ok(false);
            }
        };
        match claimed {
            Ok(lease) => {
                self.seen = Some((lease, started));
                self.expiry = self.good_until(started);
                Ok(true)
            }
            // Somebody was faster.
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                self.seen = None;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// One renewal; `false` means that another holds the Lease.
    async fn renew(&mut self) -> Result<bool, kube::Error> {
        let lease = self.seen.as_ref().map(|(lease, _)| lease.clone());
        let renewal = self.claim(lease);
        match self.replace(renewal).await {
            Ok(lease) => {
                self.seen = Some((lease, Instant::now()));
                Ok(true)
            }
            // Either somebody else wrote, or a renewal of ours got through whose answer was lost.
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                let lease = self.api.get(&self.settings.name).await?;
                let ours = holder(&lease) == self.settings.holder;
                self.seen = Some((lease, Instant::now()));
                if ours {
                    let renewal = self.claim(self.seen.as_ref().map(|(lease, _)| lease.clone()));
                    let lease = self.replace(renewal).await?;
                    self.seen = Some((lease, Instant::now()));
                }
                Ok(ours)
            }
            Err(error) => Err(error),
        }
    }

    /// The Lease as it is when we hold it. The resource version of what was read stays in: it is the fence.
    fn claim(&self, lease: Option<Lease>) -> Lease {
        let mut lease = lease.unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.settings.name.clone()),
                namespace: Some(self.settings.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let now = MicroTime((self.now)());
        let held = holder(&lease) == self.settings.holder;
        let spec: &mut LeaseSpec = lease.spec.get_or_insert_default();
        if !held {
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count + 1));
            spec.acquire_time = Some(now.clone());
            spec.holder_identity = Some(self.settings.holder.clone());
        }
        spec.lease_duration_seconds = i32::try_from(self.settings.duration.as_secs()).ok();
        spec.renew_time = Some(now);
        lease
    }

    async fn replace(&self, lease: Lease) -> Result<Lease, kube::Error> {
        self.api
            .replace(&self.settings.name, &PostParams::default(), &lease)
            .await
    }
}

fn holder(lease: &Lease) -> &str {
    lease
        .spec
        .as_ref()
        .and_then(|spec| spec.holder_identity.as_deref())
        .unwrap_or_default()
}

/// What a candidate does about the Lease it read; `unchanged` is how long it stood still on our clock.
fn decide(current: Option<&Lease>, candidate: &str, unchanged: Duration) -> Move {
    let Some(lease) = current else {
        return Move::Create;
    };
    let duration = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.lease_duration_seconds)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .unwrap_or_default();
    let holder = holder(lease);
    if holder.is_empty() || holder == candidate || unchanged >= Duration::from_secs(duration.max(1))
    {
        Move::Take
    } else {
        Move::Wait
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;
    use crate::runtime::fake_api::{self, refusal};

    /// By a clock that runs only while everything waits: a slow machine changes nothing.
    const DURATION: Duration = Duration::from_secs(3);

    /// A Lease on a fake API server that checks resource versions, as the real one does.
    #[derive(Default)]
    struct Stored {
        lease: Option<Value>,
        version: u64,
        unreachable: bool,
    }

    fn server() -> (Client, Arc<Mutex<Stored>>) {
        let stored: Arc<Mutex<Stored>> = Arc::default();
        let held = Arc::clone(&stored);
        let (client, _) = fake_api::client(move |asked| {
            let mut stored = held.lock().unwrap();
            if stored.unreachable {
                return refusal(500, "InternalError", "etcd is away");
            }
            let current = stored
                .lease
                .as_ref()
                .map(|lease| lease["metadata"]["resourceVersion"].clone());
            match asked.method.as_str() {
                "GET" => {
                    return stored
                        .lease
                        .clone()
                        .map_or_else(|| refusal(404, "NotFound", "none"), |lease| (200, lease));
                }
                "POST" if current.is_some() => return refusal(409, "AlreadyExists", "there"),
                "PUT" if current.as_ref() != Some(&asked.body["metadata"]["resourceVersion"]) => {
                    return refusal(409, "Conflict", "changed");
                }
                _ => {}
            }
            stored.version += 1;
            let mut lease = asked.body.clone();
            lease["metadata"]["resourceVersion"] = stored.version.to_string().into();
            stored.lease = Some(lease.clone());
            (200, lease)
        });
        (client, stored)
    }

    fn candidate(client: &Client, holder: &str) -> Candidate {
        let settings = LeaseSettings {
            namespace: "operator".into(),
            name: "lease".into(),
            holder: holder.into(),
            duration: DURATION,
        };
        Candidate::new(client.clone(), settings, || Timestamp::UNIX_EPOCH)
    }

    fn holder_of(stored: &Mutex<Stored>) -> String {
        let stored = stored.lock().unwrap();
        stored.lease.as_ref().unwrap()["spec"]["holderIdentity"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_candidate_waits_while_the_first_renews() {
        let (client, stored) = server();
        let (mut first, mut second) = (candidate(&client, "first"), candidate(&client, "second"));
        first.acquire(|| ()).await;
        tokio::select! {
            why = first.keep() => panic!("lost: {why}"),
            () = second.acquire(|| ()) => panic!("two lead"),
            () = tokio::time::sleep(DURATION * 2) => {}
        }
        assert_eq!(holder_of(&stored), "first");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_leader_is_followed_only_after_the_leases_duration() {
        let (client, stored) = server();
        candidate(&client, "first").acquire(|| ()).await;
        let started = Instant::now();
        candidate(&client, "second").acquire(|| ()).await;
        assert!(
            started.elapsed() >= DURATION,
            "after {:?}",
            started.elapsed()
        );
        assert_eq!(holder_of(&stored), "second");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_renew_gives_up_before_another_may_begin() {
        let (client, stored) = server();
        let mut first = candidate(&client, "first");
        first.acquire(|| ()).await;
        stored.lock().unwrap().unreachable = true;
        let started = Instant::now();
        let why = first.keep().await;
        assert!(
            started.elapsed() < DURATION,
            "after {:?}",
            started.elapsed()
        );
        assert!(why.contains("could not be renewed"), "{why}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_outage_costs_nothing() {
        let (client, stored) = server();
        let mut first = candidate(&client, "first");
        first.acquire(|| ()).await;
        let outage = async {
            for _ in 0..2 {
                stored.lock().unwrap().unreachable = true;
                tokio::time::sleep(DURATION / 3).await;
                stored.lock().unwrap().unreachable = false;
                tokio::time::sleep(DURATION / 2).await;
            }
        };
        tokio::select! {
            why = first.keep() => panic!("lost: {why}"),
            () = outage => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_another_took_is_lost() {
        let (client, stored) = server();
        let mut first = candidate(&client, "first");
        first.acquire(|| ()).await;
        {
            let mut stored = stored.lock().unwrap();
            let lease = stored.lease.as_mut().unwrap();
            lease["spec"]["holderIdentity"] = "thief".into();
            lease["metadata"]["resourceVersion"] = "99".into();
        }
        let why = first.keep().await;
        assert!(why.contains("held by `thief`"), "{why}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn work_that_holds_its_thread_does_not_lose_the_lease() {
        let (client, stored) = server();
        let mut first = candidate(&client, "first");
        first.acquire(|| ()).await;
        let renewals = Arc::clone(&stored);
        let work = async move {
            // Never gives its thread back before the Lease was renewed three times.
            let start = Instant::now();
            while renewals.lock().unwrap().version < 4 {
                assert!(start.elapsed() < Duration::from_mins(2), "no renewal");
                std::thread::sleep(Duration::from_millis(20));
            }
            "done"
        };
        let outcome = first.lead(work, |why| panic!("lost: {why}")).await;
        assert_eq!(outcome, Ok("done"));
        assert_eq!(holder_of(&stored), "", "the Lease is given up");
    }

    #[tokio::test]
    async fn a_lost_lease_is_told_at_once_and_ends_the_work() {
        let (client, stored) = server();
        let mut first = candidate(&client, "first");
        first.acquire(|| ()).await;
        {
            let mut stored = stored.lock().unwrap();
            let lease = stored.lease.as_mut().unwrap();
            lease["spec"]["holderIdentity"] = "thief".into();
            lease["metadata"]["resourceVersion"] = "99".into();
        }
        let (told, heard) = std::sync::mpsc::channel();
        let work = std::future::pending::<()>();
        let lost = move |why: &str| told.send(why.to_owned()).unwrap();
        let outcome = first.lead(work, lost).await;
        assert!(outcome.unwrap_err().contains("held by `thief`"));
        assert!(heard.try_recv().unwrap().contains("held by `thief`"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_released_lease_is_taken_at_once() {
        let (client, stored) = server();
        let mut first = candidate(&client, "first");
        first.acquire(|| ()).await;
        first.release().await;
        let started = Instant::now();
        candidate(&client, "second").acquire(|| ()).await;
        assert!(started.elapsed() < Duration::from_secs(1));
        assert_eq!(holder_of(&stored), "second");
        assert_eq!(
            stored.lock().unwrap().lease.as_ref().unwrap()["spec"]["leaseTransitions"],
            1
        );
    }
}
