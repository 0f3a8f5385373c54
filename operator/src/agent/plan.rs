//! What to do next, from what is desired and what was seen. Pure: no clock, no client.
//!
//! Level-triggered: the plan is made anew each time from what is there, so an engine that restarted, or an agent that
//! did, needs no special case. The order of the rules is the order of a swap: load, test, point, drain, unload.

use std::collections::{BTreeMap, BTreeSet};

use super::desired::{Desired, DesiredAdapter};
use super::engine::Model;
use super::state::GoldenState;

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// The engine's list; `None` while it does not answer.
    pub models: Option<Vec<Model>>,
    /// What the agent knows of each version.
    pub versions: BTreeMap<String, Known>,
    /// Where aliases point.
    pub aliases: BTreeMap<String, String>,
    /// Versions that still answer requests which began before the alias moved, and for which waiting is not over.
    pub draining: BTreeSet<String>,
}

/// What the agent knows of a version.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Known {
    /// The folder of its files, once they are here and checked.
    pub folder: Option<String>,
    /// Whether something is being done to it.
    pub busy: bool,
    /// Whether nothing may be tried now: it failed for good, or its next try is not due.
    pub held: bool,
    /// Whether unloading it failed a moment ago.
    pub unload_held: bool,
    /// The result of its golden test on the engine that runs now.
    pub golden: GoldenState,
}

/// One step.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Action {
    /// Download and check the files.
    Fetch(String),
    /// Load into the engine.
    Load(String),
    /// Compare log-probabilities.
    Test(String),
    /// Let an alias point to a version.
    Point {
        /// The alias.
        alias: String,
        /// The version.
        version: String,
    },
    /// Let an alias point nowhere.
    Detach(String),
    /// Unload from the engine.
    Unload(String),
}

/// The steps that may be taken now, the most pressing first. `adapters` is the folder below which all versions lie: what
/// the engine loaded from elsewhere is its owner's, and left alone.
pub(crate) fn plan(desired: &Desired, observed: &Observed, adapters: &str) -> Vec<Action> {
    let mut actions: Vec<_> = desired
        .adapters
        .iter()
        .filter_map(|adapter| point(adapter, observed))
        .collect();
    let wanted: BTreeSet<_> = desired
        .adapters
        .iter()
        .map(|adapter| &adapter.alias)
        .collect();
    let gone = observed
        .aliases
        .keys()
        .filter(|alias| !wanted.contains(alias));
    actions.extend(gone.cloned().map(Action::Detach));
    for version in desired.versions() {
        actions.extend(advance(&version.version, observed));
    }
    actions.extend(unload(desired, observed, adapters, &actions));
    actions
}

/// Whether the engine holds a version from our folder and was seen to answer rightly.
pub(crate) fn is_proven(version: &str, observed: &Observed) -> bool {
    observed.versions.get(version).is_some_and(|known| {
        known.golden == GoldenState::Passed && holds(version, known, observed) == Some(true)
    })
}

/// Whether the engine holds a version: `None` where it does not list it, `Some(false)` where it has it from elsewhere.
pub(crate) fn holds(version: &str, known: &Known, observed: &Observed) -> Option<bool> {
    let models = observed.models.as_ref()?;
    let model = models.iter().find(|model| model.id == version)?;
    Some(model.root.is_some() && model.root == known.folder)
}

/// The alias goes to its stable version once that is proven. Until then it stays where it is.
fn point(adapter: &DesiredAdapter, observed: &Observed) -> Option<Action> {
    let stable = &adapter.stable().next()?.version;
    let here = observed.aliases.get(&adapter.alias) == Some(stable);
    (!here && is_proven(stable, observed)).then(|| Action::Point {
        alias: adapter.alias.clone(),
        version: stable.clone(),
    })
}

/// The next step of one desired version.
fn advance(version: &str, observed: &Observed) -> Option<Action> {
    let unknown = Known::default();
    let known = observed.versions.get(version).unwrap_or(&unknown);
    let name = || version.to_owned();
    if known.busy || known.held {
        return None;
    }
    if known.folder.is_none() {
        return Some(Action::Fetch(name()));
    }
    observed.models.as_ref()?;
    match holds(version, known, observed) {
        None => Some(Action::Load(name())),
        Some(false) => (!known.unload_held).then(|| Action::Unload(name())),
        Some(true) if known.golden == GoldenState::Untested => Some(Action::Test(name())),
        Some(true) => None,
    }
}

/// What the engine holds from our folder and nobody wants, or what failed its test, once no request uses it.
fn unload(
    desired: &Desired,
    observed: &Observed,
    adapters: &str,
    actions: &[Action],
) -> Vec<Action> {
    let wanted: BTreeSet<_> = desired
        .versions()
        .into_iter()
        .map(|version| version.version.as_str())
        .filter(|version| {
            let known = observed.versions.get(*version);
            known.is_none_or(|known| known.golden != GoldenState::Failed)
        })
        .collect();
    let prefix = format!("{}/", adapters.trim_end_matches('/'));
    let ours = |model: &&Model| {
        let root = model.root.as_deref();
        root.is_some_and(|root| root.starts_with(&prefix))
    };
    let idle = |id: &str| {
        let known = observed.versions.get(id);
        let free = known.is_none_or(|known| !known.busy && !known.unload_held);
        let pointed = observed.aliases.values().any(|version| version == id);
        free && !pointed && !observed.draining.contains(id)
    };
    observed
        .models
        .iter()
        .flatten()
        .filter(ours)
        .filter(|model| !wanted.contains(model.id.as_str()) && idle(&model.id))
        .map(|model| Action::Unload(model.id.clone()))
        .filter(|action| !actions.contains(action))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::desired::{DesiredVersion, Role};
    use super::*;
    use finetune_crds::adapter::Engine;

    const FOLDER: &str = "/adapters";

    fn desired(versions: &[(&str, Role)]) -> Desired {
        let version = |(name, role): &(&str, Role)| DesiredVersion {
            version: (*name).to_owned(),
            uri: format!("s3://models/{name}/"),
            digest: format!("sha256:{name}"),
            role: *role,
        };
        Desired {
            engine: Engine::default(),
            adapters: vec![DesiredAdapter {
                alias: "tone".into(),
                versions: versions.iter().map(version).collect(),
            }],
        }
    }

    fn folder(name: &str) -> String {
        format!("{FOLDER}/{name}")
    }

    struct Scene(Observed);

    fn scene() -> Scene {
        Scene(Observed {
            models: Some(vec![Model {
                id: "base".into(),
                root: Some("/models/base".into()),
                ..Model::default()
            }]),
            ..Observed::default()
        })
    }

    impl Scene {
        fn fetched(mut self, name: &str) -> Self {
            let known = self.0.versions.entry(name.to_owned()).or_default();
            known.folder = Some(folder(name));
            self
        }

        fn loaded_from(mut self, name: &str, root: &str) -> Self {
            let models = self.0.models.get_or_insert_default();
            models.push(Model {
                id: name.to_owned(),
                root: Some(root.to_owned()),
                parent: Some("base".into()),
                ..Model::default()
            });
            self
        }

        fn loaded(self, name: &str) -> Self {
            self.fetched(name).loaded_from(name, &folder(name))
        }

        fn golden(mut self, name: &str, golden: GoldenState) -> Self {
            self.0.versions.entry(name.to_owned()).or_default().golden = golden;
            self
        }

        fn proven(self, name: &str) -> Self {
            self.loaded(name).golden(name, GoldenState::Passed)
        }

        fn pointed(mut self, name: &str) -> Self {
            self.0.aliases.insert("tone".into(), name.to_owned());
            self
        }

        fn with(mut self, change: impl FnOnce(&mut Observed)) -> Self {
            change(&mut self.0);
            self
        }

        fn plan(&self, versions: &[(&str, Role)]) -> Vec<Action> {
            plan(&desired(versions), &self.0, FOLDER)
        }
    }

    fn point_to(version: &str) -> Action {
        Action::Point {
            alias: "tone".into(),
            version: version.into(),
        }
    }

    use Role::{Candidate, Stable};

    #[test]
    fn a_version_goes_through_fetch_load_test_and_point_in_this_order() {
        let wanted = &[("one", Stable)];
        assert_eq!(scene().plan(wanted), [Action::Fetch("one".into())]);
        assert_eq!(
            scene().fetched("one").plan(wanted),
            [Action::Load("one".into())]
        );
        assert_eq!(
            scene().loaded("one").plan(wanted),
            [Action::Test("one".into())]
        );
        assert_eq!(scene().proven("one").plan(wanted), [point_to("one")]);
        assert_eq!(scene().proven("one").pointed("one").plan(wanted), []);
    }

    #[test]
    fn a_candidate_is_loaded_and_tested_and_no_alias_points_to_it() {
        let wanted = &[("one", Stable), ("two", Candidate)];
        let swap = || scene().proven("one").pointed("one");
        assert_eq!(
            swap().fetched("two").plan(wanted),
            [Action::Load("two".into())]
        );
        assert_eq!(
            swap().loaded("two").plan(wanted),
            [Action::Test("two".into())]
        );
        assert_eq!(swap().proven("two").plan(wanted), []);
    }

    #[test]
    fn the_alias_stays_on_the_old_version_until_the_new_one_is_proven() {
        let wanted = &[("two", Stable)];
        let swap = || scene().proven("one").pointed("one");
        assert_eq!(swap().plan(wanted), [Action::Fetch("two".into())]);
        assert_eq!(
            swap().loaded("two").plan(wanted),
            [Action::Test("two".into())]
        );
        assert_eq!(swap().proven("two").plan(wanted), [point_to("two")]);
    }

    #[test]
    fn the_old_version_is_unloaded_only_after_the_alias_moved_and_requests_ended() {
        let wanted = &[("two", Stable)];
        let swapped = || scene().proven("one").proven("two").pointed("two");
        let draining = swapped().with(|seen| seen.draining.extend(["one".to_owned()]));
        assert_eq!(draining.plan(wanted), []);
        assert_eq!(swapped().plan(wanted), [Action::Unload("one".into())]);
    }

    #[test]
    fn an_engine_that_forgot_is_filled_again_without_a_download() {
        let wanted = &[("one", Stable), ("two", Candidate)];
        let amnesia = scene().fetched("one").fetched("two").pointed("one");
        let expected = [Action::Load("one".into()), Action::Load("two".into())];
        assert_eq!(amnesia.plan(wanted), expected);
    }

    #[test]
    fn while_the_engine_is_away_only_downloads_go_on() {
        let wanted = &[("one", Stable), ("two", Candidate)];
        let away = scene().fetched("one").with(|seen| seen.models = None);
        assert_eq!(away.plan(wanted), [Action::Fetch("two".into())]);
    }

    #[test]
    fn the_same_name_from_another_folder_is_unloaded_first() {
        let stranger = scene().fetched("one").loaded_from("one", "/elsewhere");
        assert_eq!(
            stranger.plan(&[("one", Stable)]),
            [Action::Unload("one".into())]
        );
    }

    #[test]
    fn what_the_owner_loaded_is_left_alone() {
        assert_eq!(
            scene().loaded_from("theirs", "/models/theirs").plan(&[]),
            []
        );
    }

    #[test]
    fn what_an_earlier_agent_loaded_and_nobody_wants_is_unloaded() {
        let found = scene().loaded_from("old", &folder("old"));
        assert_eq!(found.plan(&[]), [Action::Unload("old".into())]);
    }

    #[test]
    fn a_version_that_failed_its_test_is_unloaded_and_not_tried_again() {
        let failed = scene()
            .proven("one")
            .pointed("one")
            .loaded("two")
            .golden("two", GoldenState::Failed)
            .with(|seen| seen.versions.get_mut("two").unwrap().held = true);
        let wanted = &[("one", Stable), ("two", Candidate)];
        assert_eq!(failed.plan(wanted), [Action::Unload("two".into())]);
        let unloaded = failed.with(|seen| {
            seen.models
                .as_mut()
                .unwrap()
                .retain(|model| model.id != "two");
        });
        assert_eq!(unloaded.plan(wanted), []);
    }

    #[test]
    fn one_bad_version_does_not_hold_up_another() {
        let wanted = &[("bad", Candidate), ("good", Stable)];
        let held = scene().with(|seen| {
            let known = Known {
                held: true,
                ..Known::default()
            };
            seen.versions.insert("bad".into(), known);
        });
        assert_eq!(held.plan(wanted), [Action::Fetch("good".into())]);
    }

    #[test]
    fn stable_versions_come_before_candidates() {
        let plan = scene().plan(&[("two", Candidate), ("one", Stable)]);
        assert_eq!(
            plan,
            [Action::Fetch("one".into()), Action::Fetch("two".into())]
        );
    }

    #[test]
    fn an_alias_that_nobody_wants_is_detached_before_its_version_is_unloaded() {
        let nothing = Desired {
            engine: Engine::default(),
            adapters: vec![],
        };
        let pointed = scene().proven("one").pointed("one");
        assert_eq!(
            plan(&nothing, &pointed.0, FOLDER),
            [Action::Detach("tone".into())]
        );
        let detached = pointed.with(|seen| seen.aliases.clear());
        assert_eq!(
            plan(&nothing, &detached.0, FOLDER),
            [Action::Unload("one".into())]
        );
    }
}
