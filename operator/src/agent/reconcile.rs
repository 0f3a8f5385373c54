//! The loop: reads what is desired, looks at the engine, plans, takes the steps that fit, says how things stand.
//!
//! It never waits for a step. Downloads, loads and unloads run beside it, so that a hung engine call cannot stop it from
//! seeing a new `desired.json` or from saying that the pod is not ready.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use finetune_artifacts::network;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Arguments;
use super::desired::{Desired, DesiredVersion, Role};
use super::engine::{FinetuneEngine, Model};
use super::metrics::Metrics;
use super::plan::{self, Action, Observed, holds, is_proven};
use super::record::Record;
use super::routes::Routes;
use super::state::{EngineState, GoldenState, State, VersionState};
use super::step::{Done, Step};
use super::store::Versions;

/// How often everything is looked at without a cause.
const PERIOD: Duration = Duration::from_secs(1);
/// Downloads at one time.
const CONCURRENT_FETCHES: usize = 2;

/// What the loop tells the rest of the agent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// What `/state` says.
    pub state: State,
    /// What readiness needs of the engine: each stable version and its folder.
    pub required: Vec<Required>,
    /// The engine to ask.
    pub engine: Option<FinetuneEngine>,
}

/// A stable version.
#[derive(Clone, Debug)]
pub(crate) struct Required {
    /// Its name in the engine.
    pub version: String,
    /// Its folder, once it is here.
    pub folder: Option<String>,
    /// Whether it passed its test on the engine that runs now.
    pub proven: bool,
}

/// Everything that the loop knows. Nothing of it outlives the process, and nothing needs to.
pub(crate) struct Reconciler {
    arguments: Arguments,
    versions: Versions,
    client: reqwest::Client,
    routes: Arc<Routes>,
    metrics: Metrics,
    report: watch::Sender<Report>,
    nudge: Arc<Notify>,
    desired: Option<Desired>,
    desired_digest: Option<String>,
    desired_error: Option<String>,
    engine: Option<FinetuneEngine>,
    engine_error: Option<String>,
    engine_was_down: bool,
    /// The last list that the engine gave.
    models: Vec<Model>,
    /// Grows with each engine process, so that the answer of an earlier one is not taken for this one's.
    epoch: u64,
    records: BTreeMap<String, Record>,
    aliases: BTreeMap<String, String>,
    draining: BTreeMap<String, Instant>,
    steps: JoinSet<Done>,
    /// The folders that the last sweep kept.
    kept: Option<BTreeSet<String>>,
}

impl Reconciler {
    /// A loop that knows nothing yet.
    pub(crate) fn new(
        arguments: Arguments,
        client: reqwest::Client,
        routes: Arc<Routes>,
        metrics: Metrics,
        nudge: Arc<Notify>,
    ) -> (Self, watch::Receiver<Report>) {
        let (report, receiver) = watch::channel(Report::default());
        let versions = Versions {
            folder: arguments.adapters.clone(),
            credentials: arguments.credentials.clone(),
            secret: arguments.credentials_secret.clone(),
        };
        let reconciler = Self {
            arguments,
            versions,
            client,
            routes,
            metrics,
            report,
            nudge,
            desired: None,
            desired_digest: None,
            desired_error: None,
            engine: None,
            engine_error: None,
            engine_was_down: true,
            models: Vec::new(),
            epoch: 0,
            records: BTreeMap::new(),
            aliases: BTreeMap::new(),
            draining: BTreeMap::new(),
            steps: JoinSet::new(),
            kept: None,
        };
        (reconciler, receiver)
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            self.tick().await;
            tokio::select! {
                Some(done) = self.steps.join_next() => match done {
                    Ok(done) => self.take(done),
                    Err(error) => tracing::error!(%error, "a step ended badly"),
                },
                () = self.nudge.notified() => {}
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    async fn tick(&mut self) {
        self.read_desired().await;
        self.look_at_engine().await;
        if let Some(desired) = self.desired.clone() {
            // Moving an alias needs no waiting, and allows the next step: an unload.
            let mut observed = self.observe();
            while self.move_aliases(&desired, &observed) {
                observed = self.observe();
            }
            self.switch_routes(&desired, &observed);
            let observed = self.observe();
            let actions = plan::plan(&desired, &observed, &self.adapters());
            self.start(&desired, actions);
            self.sweep(&desired).await;
        }
        self.tell();
    }

    async fn read_desired(&mut self) {
        let path = &self.arguments.desired;
        let bytes = match tokio::fs::read(path).await {
            Ok(bytes) => bytes,
            Err(error) => {
                let said = format!("failed to read {}: {error}", path.display());
                self.desired_error = Some(said);
                return;
            }
        };
        let digest = finetune_artifacts::digest::of_bytes(&bytes);
        if self.desired_digest.as_ref() == Some(&digest) {
            self.desired_error = None;
            return;
        }
        match Desired::parse(&bytes) {
            Ok(desired) => {
                tracing::info!(%digest, adapters = desired.adapters.len(), "desired.json changed");
                self.adopt(desired);
                self.desired_digest = Some(digest);
                self.desired_error = None;
            }
            // The last good one stays: a bad file must not take down what works.
            Err(error) => self.desired_error = Some(error.to_string()),
        }
    }

    fn adopt(&mut self, desired: Desired) {
        let base = format!(
            "http://{}:{}",
            network::host_in_url(&self.arguments.engine_host),
            desired.engine.port
        );
        if self
            .engine
            .as_ref()
            .is_none_or(|engine| engine.base() != base)
        {
            self.engine = Some(FinetuneEngine::new(self.client.clone(), base));
        }
        let wanted = desired.versions();
        for version in &wanted {
            let same = self
                .records
                .get(&version.version)
                .is_some_and(|record| record.digest == version.digest && record.uri == version.uri);
            if !same {
                let record = Record::new(&version.uri, &version.digest);
                self.records.insert(version.version.clone(), record);
            }
        }
        // Whoever takes a version away and puts it back wants it tried again: its failure goes with it.
        let wanted: BTreeSet<_> = wanted.iter().map(|version| &version.version).collect();
        for (name, record) in &mut self.records {
            if !wanted.contains(name) {
                record.forgive();
            }
        }
        let aliases: BTreeSet<_> = desired
            .adapters
            .iter()
            .map(|adapter| &adapter.alias)
            .collect();
        for adapter in self.desired.iter().flat_map(|old| &old.adapters) {
            if !aliases.contains(&adapter.alias) {
                self.metrics.forget(&adapter.alias);
            }
        }
        for alias in aliases {
            self.metrics.know(alias);
        }
        self.desired = Some(desired);
    }

    async fn look_at_engine(&mut self) {
        let Some(engine) = &self.engine else { return };
        match engine.models().await {
            Ok(models) => {
                // What we saw loaded and did not unload can only be gone with the process.
                let names: BTreeSet<_> = models.iter().map(|model| &model.id).collect();
                let forgot = self
                    .records
                    .iter()
                    .any(|(name, record)| record.should_be_loaded() && !names.contains(name));
                if self.engine_was_down || forgot {
                    self.epoch += 1;
                    tracing::info!(epoch = self.epoch, "a new engine process");
                    for (name, record) in &mut self.records {
                        record.engine_restarted(names.contains(name));
                    }
                }
                for (name, record) in &mut self.records {
                    record.seen_loaded = names.contains(name);
                }
                self.engine_was_down = false;
                self.engine_error = None;
                self.models = models;
            }
            Err(error) => {
                self.engine_was_down |= error.is_down();
                self.engine_error = Some(error.to_string());
            }
        }
    }

    /// Points aliases as the plan says. Whether anything moved.
    fn move_aliases(&mut self, desired: &Desired, observed: &Observed) -> bool {
        let mut moved = false;
        for action in plan::plan(desired, observed, &self.adapters()) {
            match action {
                Action::Point { alias, version } => {
                    tracing::info!(%alias, %version, "the alias moves");
                    self.aliases.insert(alias, version);
                }
                Action::Detach(alias) => {
                    tracing::info!(%alias, "the alias is gone");
                    self.aliases.remove(&alias);
                }
                _ => continue,
            }
            moved = true;
        }
        moved
    }

    /// Hands the proxy its table, then looks which versions still answer requests from before.
    fn switch_routes(&mut self, desired: &Desired, observed: &Observed) {
        let target = |alias: &String| {
            let version = self.aliases.get(alias)?;
            is_proven(version, observed).then(|| version.clone())
        };
        let aliases = desired
            .adapters
            .iter()
            .map(|adapter| (adapter.alias.clone(), target(&adapter.alias)));
        let engine = self.engine.as_ref().map(|engine| engine.base().to_owned());
        let facts = self.models.iter();
        let facts = facts.map(|model| (model.id.clone(), model.facts));
        self.routes
            .switch(engine, self.bases(), aliases.collect(), facts.collect());
        let pointed: BTreeSet<_> = self.aliases.values().cloned().collect();
        let busy = self.routes.in_flight();
        self.draining
            .retain(|version, _| busy.contains(version) && !pointed.contains(version));
        for version in busy.difference(&pointed) {
            self.draining
                .entry(version.clone())
                .or_insert_with(Instant::now);
        }
    }

    fn observe(&self) -> Observed {
        let now = Instant::now();
        let limit = Duration::from_secs(self.arguments.drain_seconds);
        let waiting = self
            .draining
            .iter()
            .filter(|(_, since)| now - **since < limit);
        Observed {
            models: self.is_reachable().then(|| self.models.clone()),
            versions: self
                .records
                .iter()
                .map(|(name, record)| (name.clone(), record.known(now)))
                .collect(),
            aliases: self.aliases.clone(),
            draining: waiting.map(|(version, _)| version.clone()).collect(),
        }
    }

    /// Whether the last list may be relied on: a busy engine that was slow to answer still holds what it held.
    fn is_reachable(&self) -> bool {
        self.engine.is_some() && !self.engine_was_down
    }

    /// Starts the steps that fit beside those under way: two downloads, one load or test, one unload.
    fn start(&mut self, desired: &Desired, actions: Vec<Action>) {
        let running = |records: &BTreeMap<String, Record>, kinds: &[Step]| {
            let matches = |record: &&Record| record.step.is_some_and(|step| kinds.contains(&step));
            records.values().filter(matches).count()
        };
        for action in actions {
            let (step, name) = match action {
                Action::Fetch(name) => (Step::Fetch, name),
                Action::Load(name) => (Step::Load, name),
                Action::Test(name) => (Step::Test, name),
                Action::Unload(name) => (Step::Unload, name),
                Action::Point { .. } | Action::Detach(_) => continue,
            };
            let free = match step {
                Step::Fetch => running(&self.records, &[Step::Fetch]) < CONCURRENT_FETCHES,
                Step::Load | Step::Test => running(&self.records, &[Step::Load, Step::Test]) == 0,
                Step::Unload => running(&self.records, &[Step::Unload]) == 0,
            };
            if free {
                self.begin(desired, step, &name);
            }
        }
    }

    fn begin(&mut self, desired: &Desired, step: Step, name: &str) {
        // An earlier agent may have loaded what has no record here.
        let record = self.records.entry(name.to_owned()).or_default();
        let base = base_of(&self.models, &self.arguments.adapters.display().to_string());
        let Some(task) = record.task(step, name, self.engine.as_ref(), base, &self.versions) else {
            return;
        };
        tracing::info!(
            version = name,
            ?step,
            alias = alias_of(desired, name),
            "begins"
        );
        record.step = Some(step);
        if step == Step::Load {
            record.golden_state = GoldenState::Untested;
        }
        let epoch = self.epoch;
        let (name, digest) = (name.to_owned(), record.digest.clone());
        self.steps.spawn(async move {
            Done {
                version: name,
                digest,
                step,
                epoch,
                result: task.await,
            }
        });
    }

    /// Frees the room of versions that are neither desired nor in the engine. Only while nothing is under way: a download
    /// has no record of its folder yet.
    async fn sweep(&mut self, desired: &Desired) {
        if !self.is_reachable() || !self.steps.is_empty() {
            return;
        }
        let wanted = desired.versions();
        let wanted = wanted
            .iter()
            .map(|version| Versions::folder_name(&version.digest));
        let roots = self.models.iter().filter_map(|model| {
            let name = std::path::Path::new(model.root.as_deref()?).file_name()?;
            Some(name.to_string_lossy().into_owned())
        });
        let keep: BTreeSet<String> = wanted.chain(roots).collect();
        if self.kept.as_ref() != Some(&keep) {
            self.versions.sweep(&keep).await;
            self.kept = Some(keep);
        }
    }

    /// Takes over the result of a step.
    fn take(&mut self, done: Done) {
        self.metrics.step(done.step.as_str(), done.result.is_ok());
        match &done.result {
            Ok(_) => tracing::info!(version = done.version, step = ?done.step, "done"),
            Err(error) => {
                tracing::warn!(version = done.version, step = ?done.step, %error, "failed");
            }
        }
        let Some(record) = self.records.get_mut(&done.version) else {
            return;
        };
        if record.digest != done.digest {
            return;
        }
        record.take(done, self.epoch, Instant::now());
    }

    fn tell(&mut self) {
        let observed = self.observe();
        // What is neither desired nor in the engine is history.
        if let Some(desired) = &self.desired {
            let wanted: BTreeSet<_> = desired
                .versions()
                .iter()
                .map(|version| version.version.clone())
                .collect();
            self.records.retain(|name, record| {
                wanted.contains(name) || record.step.is_some() || record.seen_loaded
            });
        }
        let mut state = State {
            desired_digest: self.desired_digest.clone(),
            desired_error: self.desired_error.clone(),
            engine: EngineState {
                reachable: self.engine.is_some() && self.engine_error.is_none(),
                models: self.models.iter().map(|model| model.id.clone()).collect(),
                error: self.engine_error.clone(),
            },
            ..State::default()
        };
        let mut required = Vec::new();
        for version in self.desired.iter().flat_map(Desired::versions) {
            state.versions.push(self.version_state(version, &observed));
            if version.role == Role::Stable {
                let known = observed.versions.get(&version.version);
                required.push(Required {
                    version: version.version.clone(),
                    folder: known.and_then(|known| known.folder.clone()),
                    proven: is_proven(&version.version, &observed),
                });
            }
        }
        if !self.is_reachable() {
            state.engine.models.clear();
        }
        let answering = self
            .aliases
            .iter()
            .filter(|(_, version)| is_proven(version, &observed));
        state.aliases = answering
            .map(|(alias, version)| (alias.clone(), version.clone()))
            .collect();
        self.metrics.state(&state);
        self.report.send_replace(Report {
            state,
            required,
            engine: self.engine.clone(),
        });
    }

    fn version_state(&self, version: &DesiredVersion, observed: &Observed) -> VersionState {
        let known = observed.versions.get(&version.version);
        let record = self.records.get(&version.version);
        let failure = record.and_then(|record| record.failure.as_ref());
        VersionState {
            version: version.version.clone(),
            digest: version.digest.clone(),
            verified: known.is_some_and(|known| known.folder.is_some()),
            loaded: known
                .is_some_and(|known| holds(&version.version, known, observed) == Some(true)),
            golden: known.map(|known| known.golden).unwrap_or_default(),
            error: failure.map(|failure| failure.message.clone()),
            permanent: failure.is_some_and(|failure| failure.permanent),
        }
    }

    /// The names of the models that are no adapters.
    fn bases(&self) -> BTreeSet<String> {
        let adapters = self.adapters();
        let bases = self.models.iter().filter(|model| is_base(model, &adapters));
        bases.map(|model| model.id.clone()).collect()
    }

    fn adapters(&self) -> String {
        self.arguments.adapters.display().to_string()
    }
}

/// The name under which the engine serves its base.
fn base_of(models: &[Model], adapters: &str) -> Option<String> {
    let base = models.iter().find(|model| is_base(model, adapters));
    base.map(|model| model.id.clone())
}

fn is_base(model: &Model, adapters: &str) -> bool {
    let below = |root: &String| root.starts_with(adapters);
    model.parent.is_none() && !model.root.as_ref().is_some_and(below)
}

fn alias_of<'a>(desired: &'a Desired, version: &str) -> Option<&'a str> {
    let has = |candidate: &DesiredVersion| candidate.version == version;
    let adapter = desired
        .adapters
        .iter()
        .find(|adapter| adapter.versions.iter().any(has));
    adapter.map(|adapter| adapter.alias.as_str())
}
