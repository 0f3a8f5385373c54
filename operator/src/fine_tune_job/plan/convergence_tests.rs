//! A property: whatever happens to children, pods and the controller itself, plans come to an end and stay there, and a
//! job publishes at most once.

use finetune_crds::FineTuneJob;
use finetune_crds::contract::{OutcomeReason, Stage};
use finetune_crds::fine_tune_job::JobPhase;
use finetune_crds::names::condition;
use jiff::ToSpan;
use proptest::prelude::*;

use super::super::fixtures::*;
use super::super::seen::{AdapterSeen, Child, JobEnd, JobSeen, PodSeen, Seen};
use super::super::status::is_true;
use super::*;

/// `spec.maxRetries` of [`job`].
const MAX_RETRIES: i32 = 3;

/// What may happen between two looks.
#[derive(Clone, Copy, Debug)]
enum Happening {
    PodStarts(Stage),
    PodEnds(Stage, Ending),
    PodIsLost(Stage),
    JobIsLost(Stage),
    ConfigMapIsLost,
    NodeIsLost(Stage),
    UserDeletesAdapter,
    NewerJobPublishes,
    Reconcile(Crash),
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    Well,
    Retry,
    Final,
    Preempted,
    OutOfMemory,
    Silent,
}

/// Where the controller dies.
#[derive(Clone, Copy, Debug)]
enum Crash {
    Nowhere,
    BeforeAnything,
    AfterOneDeletion,
    AfterOneCreation,
    BeforeTheStatusIsStored,
    /// It does not die, but a newer job writes the Adapter between its look and its write.
    ANewerJobIsFaster,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let stage = || prop_oneof![Just(Stage::Prepare), Just(Stage::Train)];
    let ending = prop_oneof![
        4 => Just(Ending::Well),
        2 => Just(Ending::Retry),
        1 => Just(Ending::Final),
        1 => Just(Ending::Preempted),
        1 => Just(Ending::OutOfMemory),
        1 => Just(Ending::Silent),
    ];
    let crash = prop_oneof![
        4 => Just(Crash::Nowhere),
        1 => Just(Crash::BeforeAnything),
        1 => Just(Crash::AfterOneDeletion),
        1 => Just(Crash::AfterOneCreation),
        1 => Just(Crash::BeforeTheStatusIsStored),
        1 => Just(Crash::ANewerJobIsFaster),
    ];
    let happening = prop_oneof![
        4 => stage().prop_map(Happening::PodStarts),
        4 => (stage(), ending).prop_map(|(stage, ending)| Happening::PodEnds(stage, ending)),
        1 => stage().prop_map(Happening::PodIsLost),
        1 => stage().prop_map(Happening::JobIsLost),
        1 => Just(Happening::ConfigMapIsLost),
        1 => stage().prop_map(Happening::NodeIsLost),
        1 => Just(Happening::UserDeletesAdapter),
        1 => Just(Happening::NewerJobPublishes),
        8 => crash.prop_map(Happening::Reconcile),
    ];
    prop::collection::vec(happening, 0..60)
}

#[derive(Default)]
struct StageState {
    job: Option<(String, JobSeen)>,
    pods: Vec<PodSeen>,
    /// Pods that failed and count, in all Jobs since the last one that went for another reason than a lost node.
    failures: i32,
}

struct World {
    fine_tune_job: FineTuneJob,
    config_map: bool,
    prepare: StageState,
    train: StageState,
    adapter: Option<(char, bool)>,
    /// Counts the writes of the Adapter, as its resourceVersion does.
    writes: u32,
    names: u32,
    deleted_after_publication: bool,
    /// Pods that were to be given up and have outlived their Job: nobody finds them any more.
    forgotten: Vec<PodSeen>,
}

impl World {
    fn new() -> Self {
        Self {
            fine_tune_job: job(),
            config_map: false,
            prepare: StageState::default(),
            train: StageState::default(),
            adapter: None,
            writes: 0,
            names: 0,
            deleted_after_publication: false,
            forgotten: Vec::new(),
        }
    }

    fn stage(&mut self, stage: Stage) -> &mut StageState {
        match stage {
            Stage::Prepare => &mut self.prepare,
            Stage::Train => &mut self.train,
        }
    }

    fn published(&self) -> bool {
        is_true(self.fine_tune_job.status.as_ref(), condition::PUBLISHED)
    }

    fn finished(&self) -> bool {
        let phase = self
            .fine_tune_job
            .status
            .as_ref()
            .and_then(|status| status.phase);
        phase.is_some_and(JobPhase::is_finished)
    }

    fn seen(&self) -> Seen {
        let child = |state: &StageState| match &state.job {
            None => Child::Absent,
            Some((uid, is)) => Child::Ours {
                uid: uid.clone(),
                deleting: false,
                is: is.clone(),
            },
        };
        Seen {
            config_map: if self.config_map {
                ours(manifest())
            } else {
                Child::Absent
            },
            prepare: child(&self.prepare),
            train: child(&self.train),
            pods: self
                .prepare
                .pods
                .iter()
                .chain(&self.train.pods)
                .cloned()
                .collect(),
            adapter: self
                .adapter
                .map_or(AdapterSeen::Absent, |(of, newer)| AdapterSeen::Present {
                    uid: "adapter-uid".into(),
                    resource_version: self.writes.to_string(),
                    deleting: false,
                    digest: Some(digest(of)),
                    from_job: Some(if newer { "uid-2" } else { UID }.into()),
                    from_younger_job: newer,
                    owners: None,
                }),
            ..Seen::default()
        }
    }

    fn plan(&self) -> Plan {
        plan_for(&self.fine_tune_job, &self.seen())
    }

    fn reconcile(&mut self, crash: Crash) {
        let plan = self.plan();
        if self.finished() {
            assert!(
                plan.create.is_empty() && plan.publish.is_none(),
                "a finished job was run again"
            );
        }
        if matches!(crash, Crash::BeforeAnything) {
            return;
        }
        for doomed in &plan.delete {
            self.delete(doomed, &plan.delete);
            if matches!(crash, Crash::AfterOneDeletion) {
                return;
            }
        }
        for child in &plan.create {
            match child {
                NewChild::ConfigMap(_) => self.config_map = true,
                NewChild::Job(job) => {
                    self.names += 1;
                    let uid = format!("job-{}", self.names);
                    let stage = if job.metadata.name.as_deref() == Some("support-train") {
                        Stage::Train
                    } else {
                        Stage::Prepare
                    };
                    let state = self.stage(stage);
                    assert!(state.job.is_none(), "two Jobs for one stage");
                    let is = JobSeen {
                        backoff_limit: job.spec.as_ref().and_then(|spec| spec.backoff_limit),
                        ..JobSeen::default()
                    };
                    state.job = Some((uid, is));
                }
            }
            if matches!(crash, Crash::AfterOneCreation) {
                return;
            }
        }
        if matches!(crash, Crash::ANewerJobIsFaster) {
            self.newer_job_publishes();
        }
        if let Some(publication) = &plan.publish {
            let onto = publication.onto.as_ref();
            let there = self.adapter.map(|_| self.writes.to_string());
            if onto.map(|onto| &onto.resource_version) != there.as_ref() {
                // The API server's conflict: nothing is written, the status neither.
                return;
            }
            self.writes += 1;
            assert!(!self.published(), "published twice");
            assert!(
                self.adapter.is_none_or(|(_, newer)| !newer),
                "undid a newer version"
            );
            assert_eq!(publication.source.digest, digest('a'));
            self.adapter = Some(('a', false));
        }
        if !matches!(crash, Crash::BeforeTheStatusIsStored) {
            self.fine_tune_job.status = Some(plan.status);
        }
    }

    /// Deletes an object, of all that go with it.
    fn delete(&mut self, doomed: &Doomed, together: &[Doomed]) {
        if doomed.kind == DoomedKind::ConfigMap {
            self.config_map = false;
        }
        let is_given_up = |pod: &PodSeen| {
            let mut all = together.iter();
            all.any(|doomed| doomed.kind == DoomedKind::Pod && doomed.uid == pod.uid)
        };
        self.forgotten.retain(|pod| pod.uid != doomed.uid);
        for stage in [Stage::Prepare, Stage::Train] {
            let state = self.stage(stage);
            state.pods.retain(|pod| pod.uid != doomed.uid);
            let of_job = state.job.as_ref().map(|(uid, _)| uid);
            if of_job == Some(&doomed.uid) {
                let gives_up_a_pod = together.iter().any(|one| one.kind == DoomedKind::Pod);
                let gone = std::mem::take(state);
                if gives_up_a_pod {
                    state.failures = gone.failures;
                }
                self.forgotten
                    .extend(gone.pods.into_iter().filter(is_given_up));
            }
        }
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Reconcile(crash) => self.reconcile(crash),
            Happening::ConfigMapIsLost => self.config_map = false,
            Happening::JobIsLost(stage) => *self.stage(stage) = StageState::default(),
            Happening::PodIsLost(stage) => self.stage(stage).pods.clear(),
            Happening::UserDeletesAdapter => {
                self.deleted_after_publication |= self.adapter.is_some() && self.published();
                self.adapter = None;
            }
            Happening::NewerJobPublishes => self.newer_job_publishes(),
            Happening::NodeIsLost(stage) => {
                if let Some(pod) = self.stage(stage).pods.last_mut() {
                    pod.end_due = Some(now() - 301.seconds());
                }
            }
            Happening::PodStarts(stage) => self.start(stage),
            Happening::PodEnds(stage, ending) => self.end(stage, ending),
        }
        if self.deleted_after_publication {
            assert!(
                self.adapter.is_none(),
                "an Adapter that its user deleted came back"
            );
        }
    }

    fn newer_job_publishes(&mut self) {
        if !self.deleted_after_publication {
            self.adapter = Some(('c', true));
            self.writes += 1;
        }
    }

    fn start(&mut self, stage: Stage) {
        self.names += 1;
        let name = format!("pod-{}", self.names);
        let state = self.stage(stage);
        let due = state.job.as_ref().is_some_and(|(_, is)| is.end.is_none());
        if due && state.pods.iter().all(|pod| pod.terminated().is_some()) {
            state.pods.push(PodSeen {
                uid: name.clone(),
                name,
                ..running(stage)
            });
        }
    }

    fn end(&mut self, stage: Stage, ending: Ending) {
        let state = self.stage(stage);
        let Some(pod) = state.pods.last_mut().filter(|pod| pod.is_running()) else {
            return;
        };
        let Some((_, is)) = &mut state.job else {
            return;
        };
        let said = |exit_code, reason| ended(stage, exit_code, Some(outcome(stage, reason)));
        let fresh = match ending {
            Ending::Well => said(0, OutcomeReason::Succeeded),
            Ending::Retry => said(1, OutcomeReason::Unavailable),
            Ending::Final => said(10, OutcomeReason::InvalidInput),
            Ending::Preempted => said(11, OutcomeReason::Preempted),
            Ending::OutOfMemory => out_of_memory("x"),
            Ending::Silent => ended(stage, 0, None),
        };
        *pod = PodSeen {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            stage,
            ..fresh
        };
        let limit = is.backoff_limit.unwrap_or_default();
        let given_up = |reason: &str, times: i32| JobSeen {
            backoff_limit: Some(limit),
            ..failed(reason, times)
        };
        match ending {
            Ending::Well | Ending::Silent => is.end = Some(JobEnd::Complete),
            Ending::Final => *is = given_up("PodFailurePolicy", is.failed + 1),
            Ending::Preempted => {}
            Ending::Retry | Ending::OutOfMemory => {
                *is = if is.failed >= limit {
                    given_up("BackoffLimitExceeded", is.failed + 1)
                } else {
                    JobSeen {
                        failed: is.failed + 1,
                        ..is.clone()
                    }
                };
                state.failures += 1;
                assert!(
                    state.failures <= MAX_RETRIES + 1,
                    "a pod more than may fail"
                );
            }
        }
    }
}

proptest! {
    #[test]
    fn plans_come_to_an_end_and_stay_there(happenings in happenings()) {
        let mut world = World::new();
        for happening in happenings {
            world.happens(happening);
        }
        // From here on nothing bad happens.
        for _ in 0..12 {
            world.happens(Happening::Reconcile(Crash::Nowhere));
            for stage in [Stage::Prepare, Stage::Train] {
                world.happens(Happening::PodEnds(stage, Ending::Well));
                world.happens(Happening::PodStarts(stage));
            }
        }
        prop_assert!(world.finished(), "not finished: {:?}", world.fine_tune_job.status);
        prop_assert!(world.forgotten.is_empty(), "still there: {:?}", world.forgotten);
        let plan = world.plan();
        prop_assert!(plan.is_empty(world.fine_tune_job.status.as_ref()), "still to do: {plan:?}");
        prop_assert_eq!(plan.next_check, None);
        // And even if all children go.
        for stage in [Stage::Prepare, Stage::Train] {
            world.happens(Happening::JobIsLost(stage));
        }
        world.happens(Happening::ConfigMapIsLost);
        prop_assert!(world.plan().is_empty(world.fine_tune_job.status.as_ref()));
    }
}
