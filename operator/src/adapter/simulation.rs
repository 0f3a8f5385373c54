//! Both controllers and simulated agents, in any order, with engines that lose everything, pods that come and go, and new
//! digests at any time: the wanted version ends up answering everywhere, and no client meets the base on the way.

use std::collections::{BTreeMap, BTreeSet};

use finetune_crds::Adapter;
use finetune_crds::adapter::AdapterPhase;
use finetune_crds::contract::layout::version_name;
use k8s_openapi::api::apps::v1::Deployment;
use proptest::prelude::*;

use super::plan::plan;
use super::seen::{AgentSeen, PodSeen, Seen, TargetSeen};
use super::validate::validate;
use crate::agent::desired::Desired;
use crate::agent::state::{EngineState, GoldenState, State, VersionState};
use crate::inference_deployment::fixtures::{adapter, at, deployment, source, version};
use crate::inference_deployment::plan::{ConfigMapChange, plan as plan_deployment};
use crate::inference_deployment::seen::{ConfigMapSeen, Seen as DeploymentSeen};
use crate::inference_deployment::validate::validate as validate_deployment;
use crate::settings::AgentSettings;

/// What may happen next.
#[derive(Clone, Copy, Debug)]
enum Happening {
    AdapterController,
    DeploymentController,
    AgentReads(usize),
    AgentWorks(usize),
    EngineRestarts(usize),
    PodJoins,
    PodLeaves(usize),
    Publishes(char),
}

/// A pod: an agent and its engine.
#[derive(Clone, Debug, Default)]
struct Pod {
    told: Option<Desired>,
    fetched: BTreeSet<String>,
    proven: BTreeSet<String>,
    aliases: BTreeMap<String, String>,
}

struct World {
    adapter: Adapter,
    deployment: Deployment,
    config_map: ConfigMapSeen,
    pods: Vec<Pod>,
    bad: BTreeSet<String>,
    second: i64,
}

impl Pod {
    fn read(&mut self, config_map: &ConfigMapSeen) {
        if let Some(desired) = config_map.desired() {
            self.told = Some(desired.clone());
            self.point();
        }
    }

    /// As in the agent, no request comes between a change and this.
    fn point(&mut self) {
        for adapter in self.told.iter().flat_map(|told| &told.adapters) {
            if let Some(stable) = adapter.stable().next()
                && self.proven.contains(&stable.version)
            {
                self.aliases
                    .insert(adapter.alias.clone(), stable.version.clone());
            }
        }
    }

    /// One step, in the agent's order: fetch, then load and test, then unload.
    fn work(&mut self, bad: &BTreeSet<String>) {
        let Some(told) = &self.told else { return };
        let wanted: BTreeSet<String> = told
            .versions()
            .iter()
            .map(|version| version.version.clone())
            .collect();
        if let Some(next) = wanted
            .iter()
            .find(|version| !self.fetched.contains(*version))
        {
            self.fetched.insert(next.clone());
        } else if let Some(next) = wanted
            .iter()
            .find(|version| !self.proven.contains(*version) && !bad.contains(*version))
        {
            self.proven.insert(next.clone());
        } else {
            let pointed: BTreeSet<&String> = self.aliases.values().collect();
            self.proven
                .retain(|version| wanted.contains(version) || pointed.contains(version));
            self.fetched
                .retain(|version| wanted.contains(version) || pointed.contains(version));
        }
        self.point();
    }

    fn stable(&self) -> Option<&str> {
        let told = self.told.iter().flat_map(|told| &told.adapters);
        told.flat_map(super::super::agent::desired::DesiredAdapter::stable)
            .map(|version| version.version.as_str())
            .next()
    }

    fn is_ready(&self) -> bool {
        self.told.is_some()
            && self
                .stable()
                .is_none_or(|stable| self.proven.contains(stable))
    }

    fn answers(&self, alias: &str) -> Option<&String> {
        self.aliases
            .get(alias)
            .filter(|version| self.proven.contains(*version))
    }

    fn state(&self, bad: &BTreeSet<String>) -> State {
        let versions = self.told.iter().flat_map(Desired::versions).map(|version| {
            let proven = self.proven.contains(&version.version);
            let refused = self.fetched.contains(&version.version) && bad.contains(&version.version);
            VersionState {
                version: version.version.clone(),
                digest: version.digest.clone(),
                verified: self.fetched.contains(&version.version),
                loaded: proven,
                golden: if proven {
                    GoldenState::Passed
                } else {
                    GoldenState::Untested
                },
                error: refused.then(|| "the adapter changes nothing".to_owned()),
                permanent: refused,
            }
        });
        State {
            engine: EngineState {
                reachable: true,
                ..EngineState::default()
            },
            versions: versions.collect(),
            aliases: self.aliases.clone(),
            ..State::default()
        }
    }
}

impl World {
    fn new(bad: Option<char>) -> Self {
        let mut adapter = adapter("tone", 1);
        adapter.spec.source = Some(source('a'));
        Self {
            adapter,
            deployment: deployment(),
            config_map: ConfigMapSeen::Absent,
            pods: vec![Pod::default(), Pod::default()],
            bad: bad
                .map(|letter| version("tone", letter).version)
                .into_iter()
                .collect(),
            second: 1000,
        }
    }

    fn happen(&mut self, happening: Happening) {
        self.second += 1;
        let count = self.pods.len().max(1);
        match happening {
            Happening::AdapterController => self.reconcile_adapter(),
            Happening::DeploymentController => self.reconcile_deployment(),
            Happening::AgentReads(pod) => {
                let config_map = self.config_map.clone();
                self.pods
                    .get_mut(pod % count)
                    .into_iter()
                    .for_each(|pod| pod.read(&config_map));
            }
            Happening::AgentWorks(pod) => {
                let bad = self.bad.clone();
                self.pods
                    .get_mut(pod % count)
                    .into_iter()
                    .for_each(|pod| pod.work(&bad));
            }
            Happening::EngineRestarts(pod) => {
                self.pods
                    .get_mut(pod % count)
                    .into_iter()
                    .for_each(|pod| pod.proven.clear());
            }
            Happening::PodJoins if self.pods.len() < 4 => {
                // It finds the ConfigMap at its start.
                let mut pod = Pod::default();
                pod.read(&self.config_map);
                self.pods.push(pod);
            }
            Happening::PodLeaves(pod) if self.pods.len() > 1 => {
                self.pods.remove(pod % count);
            }
            Happening::PodJoins | Happening::PodLeaves(_) => {}
            Happening::Publishes(letter) => self.adapter.spec.source = Some(source(letter)),
        }
    }

    fn reconcile_adapter(&mut self) {
        let pods = self.pods.iter().enumerate().map(|(number, pod)| PodSeen {
            name: format!("p{number}"),
            ready: pod.is_ready(),
            agent: AgentSeen::Speaks(Box::new(pod.state(&self.bad))),
        });
        let seen = Seen {
            adapters: vec![self.adapter.clone()],
            targets: vec![TargetSeen {
                serving: self.adapter.spec.serving[0].clone(),
                deployment: Some(self.deployment.clone()),
                pods: pods.collect(),
            }],
        };
        let plan = plan(
            &self.adapter,
            &validate(&self.adapter, &seen),
            &seen,
            at(self.second),
        );
        self.adapter.status = Some(plan.status);
    }

    fn reconcile_deployment(&mut self) {
        let seen = DeploymentSeen {
            adapters: vec![self.adapter.clone()],
            malformed: Vec::new(),
            config_map: self.config_map.clone(),
            pods: Vec::new(),
        };
        let verdict = validate_deployment(&self.deployment, &seen);
        let plan = plan_deployment(&self.deployment, &verdict, &seen, &AgentSettings::default());
        if let ConfigMapChange::Apply(object) = plan.config_map {
            let text = object["data"]["desired.json"].as_str().unwrap().to_owned();
            let desired = Some(Desired::parse(text.as_bytes()).unwrap());
            self.config_map = ConfigMapSeen::Ours { text, desired };
        }
    }

    /// Everybody gets a turn until nothing new can come.
    fn settle(&mut self) {
        for _ in 0..12 {
            self.happen(Happening::AdapterController);
            self.happen(Happening::DeploymentController);
            for pod in 0..self.pods.len() {
                self.happen(Happening::AgentReads(pod));
                for _ in 0..4 {
                    self.happen(Happening::AgentWorks(pod));
                }
            }
        }
        self.happen(Happening::AdapterController);
    }
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => Just(Happening::AdapterController),
        4 => Just(Happening::DeploymentController),
        4 => (0..4_usize).prop_map(Happening::AgentReads),
        8 => (0..4_usize).prop_map(Happening::AgentWorks),
        1 => (0..4_usize).prop_map(Happening::EngineRestarts),
        1 => Just(Happening::PodJoins),
        1 => (0..4_usize).prop_map(Happening::PodLeaves),
        1 => prop_oneof![Just('a'), Just('b'), Just('c')].prop_map(Happening::Publishes),
    ]
}

proptest! {
    #[test]
    fn the_wanted_version_ends_up_answering_on_every_pod(happenings in prop::collection::vec(happening(), 0..120)) {
        let mut world = World::new(None);
        for happening in happenings {
            world.happen(happening);
            for pod in &world.pods {
                let silent = pod.is_ready() && pod.stable().is_some() && pod.answers("tone").is_none();
                prop_assert!(!silent, "a ready pod does not answer: {pod:?}");
            }
        }
        world.settle();
        let digest = &world.adapter.spec.source.as_ref().unwrap().digest;
        let wanted = version_name("tone", digest);
        let status = world.adapter.status.clone().unwrap();
        prop_assert_eq!(status.phase, Some(AdapterPhase::Ready), "{:?}", status);
        for pod in &world.pods {
            prop_assert_eq!(pod.answers("tone"), Some(&wanted));
            prop_assert_eq!(&pod.proven, &BTreeSet::from([wanted.clone()]), "old versions are unloaded");
        }
        // And it stays so.
        let (before, told) = (world.adapter.status.clone(), world.config_map.clone());
        world.settle();
        prop_assert_eq!(&world.adapter.status, &before);
        prop_assert!(world.config_map == told);
    }

    #[test]
    fn a_bad_version_never_takes_the_good_one_away(happenings in prop::collection::vec(happening(), 0..120)) {
        let mut world = World::new(Some('b'));
        for happening in happenings {
            world.happen(happening);
            let stable = world.adapter.status.as_ref().and_then(|status| status.stable.clone());
            prop_assert!(stable.is_none_or(|stable| stable.version != "tone@bbbbbbbbbbbb"));
        }
        world.happen(Happening::Publishes('a'));
        world.settle();
        world.happen(Happening::Publishes('b'));
        world.settle();
        let status = world.adapter.status.clone().unwrap();
        prop_assert_eq!(status.phase, Some(AdapterPhase::Failed), "{:?}", status);
        for pod in &world.pods {
            prop_assert_eq!(pod.answers("tone").map(String::as_str), Some("tone@aaaaaaaaaaaa"));
        }
    }
}
