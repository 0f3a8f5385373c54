//! The rollout as a whole, case by case; and both controllers with simulated agents, in any order of events.

use finetune_crds::adapter::{AdapterPhase, HistoryEntry};
use finetune_crds::names::{annotation, condition};
use finetune_crds::{Adapter, AdapterStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rstest::rstest;
use serde_json::json;

use super::plan::{Plan, plan};
use super::seen::{AgentSeen, PodSeen, Seen, TargetSeen};
use super::status::condition_of;
use super::validate::validate;
use crate::agent::state::{EngineState, GoldenState, State, VersionState};
use crate::inference_deployment::fixtures::{adapter, at, deployment, digest, source, version};

/// An Adapter that a job has published to.
fn published(letter: char) -> Adapter {
    let mut adapter = adapter("tone", 1);
    adapter.spec.source = Some(source(letter));
    adapter
}

fn with_status(mut adapter: Adapter, status: AdapterStatus) -> Adapter {
    adapter.status = Some(status);
    adapter
}

/// An Adapter whose version `old` answers and whose spec names `new`.
fn serving(old: char, new: char) -> Adapter {
    with_status(
        published(new),
        AdapterStatus {
            stable: Some(version("tone", old)),
            ..AdapterStatus::default()
        },
    )
}

/// How a simulated pod's agent sees a version.
#[derive(Clone, Copy)]
enum At {
    Fetching,
    Verified,
    Proven,
    Answering,
    Refused(&'static str),
    Stuck(&'static str),
}

fn pod(name: &str, versions: &[(char, At)]) -> PodSeen {
    let mut state = State {
        engine: EngineState {
            reachable: true,
            models: vec!["base".into()],
            error: None,
        },
        ..State::default()
    };
    for (letter, at) in versions {
        let version = version("tone", *letter);
        let mut known = VersionState {
            version: version.version.clone(),
            digest: version.digest,
            ..VersionState::default()
        };
        match at {
            At::Fetching => {}
            At::Verified => known.verified = true,
            At::Proven | At::Answering => {
                (known.verified, known.loaded, known.golden) = (true, true, GoldenState::Passed);
            }
            At::Refused(why) => {
                (known.verified, known.permanent, known.error) = (true, true, Some((*why).into()));
            }
            At::Stuck(why) => known.error = Some((*why).into()),
        }
        if matches!(at, At::Answering) {
            state.aliases.insert("tone".into(), version.version);
        }
        state.versions.push(known);
    }
    PodSeen {
        name: name.into(),
        ready: true,
        agent: AgentSeen::Speaks(Box::new(state)),
    }
}

fn seen(adapter: &Adapter, pods: Vec<PodSeen>) -> Seen {
    Seen {
        adapters: vec![adapter.clone()],
        targets: vec![TargetSeen {
            serving: adapter.spec.serving[0].clone(),
            deployment: Some(deployment()),
            pods,
        }],
    }
}

fn planned(adapter: &Adapter, seen: &Seen) -> Plan {
    plan(adapter, &validate(adapter, seen), seen, at(1000))
}

/// A condition as `status reason`.
fn condition(plan: &Plan, type_: &str) -> String {
    let condition = condition_of(Some(&plan.status), type_).unwrap();
    format!("{} {}", condition.status, condition.reason)
}

fn message(plan: &Plan, type_: &str) -> String {
    condition_of(Some(&plan.status), type_)
        .unwrap()
        .message
        .clone()
}

fn stable(plan: &Plan) -> Option<String> {
    plan.status
        .stable
        .as_ref()
        .map(|stable| stable.version.clone())
}

fn candidate(plan: &Plan) -> Option<String> {
    plan.status
        .candidate
        .as_ref()
        .map(|candidate| candidate.version.clone())
}

fn phase(plan: &Plan) -> AdapterPhase {
    plan.status.phase.unwrap()
}

#[test]
fn nothing_happens_before_a_job_has_published() {
    let adapter = adapter("tone", 1);
    let plan = planned(&adapter, &seen(&adapter, vec![pod("p1", &[])]));
    assert_eq!(
        (phase(&plan), condition(&plan, condition::READY)),
        (AdapterPhase::Pending, "False NotPublished".into())
    );
    assert_eq!(candidate(&plan), None);
    assert_eq!(plan.status.observed_generation, Some(1));
}

#[test]
fn a_first_version_becomes_the_candidate() {
    let adapter = published('a');
    let plan = planned(&adapter, &seen(&adapter, vec![pod("p1", &[])]));
    assert_eq!(candidate(&plan).as_deref(), Some("tone@aaaaaaaaaaaa"));
    assert_eq!(
        (stable(&plan), phase(&plan)),
        (None, AdapterPhase::Verifying)
    );
    assert_eq!(plan.status.loaded.as_deref(), Some("0/1"));
}

#[rstest]
#[case::one_still_downloads(&[('a', At::Proven)], &[('a', At::Fetching)], AdapterPhase::Verifying, "1/2", false)]
#[case::one_still_loads(&[('a', At::Proven)], &[('a', At::Verified)], AdapterPhase::Loading, "1/2", false)]
#[case::one_has_not_heard(&[('a', At::Proven)], &[], AdapterPhase::Verifying, "1/2", false)]
#[case::all_hold_it(&[('a', At::Proven)], &[('a', At::Proven)], AdapterPhase::Loading, "2/2", true)]
fn a_first_version_is_stable_once_every_pod_has_proven_it(
    #[case] one: &[(char, At)],
    #[case] other: &[(char, At)],
    #[case] expected: AdapterPhase,
    #[case] loaded: &str,
    #[case] promoted: bool,
) {
    let adapter = with_status(
        published('a'),
        AdapterStatus {
            candidate: Some(version("tone", 'a')),
            ..AdapterStatus::default()
        },
    );
    let plan = planned(
        &adapter,
        &seen(&adapter, vec![pod("p1", one), pod("p2", other)]),
    );
    assert_eq!(
        (phase(&plan), plan.status.loaded.as_deref()),
        (expected, Some(loaded))
    );
    assert_eq!(
        (stable(&plan).is_some(), candidate(&plan).is_none()),
        (promoted, promoted)
    );
    assert!(condition(&plan, condition::READY).starts_with("False"));
}

#[test]
fn is_ready_only_when_the_alias_leads_to_it_on_every_pod() {
    let adapter = serving('a', 'a');
    let half = planned(
        &adapter,
        &seen(
            &adapter,
            vec![
                pod("p1", &[('a', At::Answering)]),
                pod("p2", &[('a', At::Proven)]),
            ],
        ),
    );
    assert_eq!(condition(&half, condition::READY), "False Switching");
    let all = planned(
        &adapter,
        &seen(
            &adapter,
            vec![
                pod("p1", &[('a', At::Answering)]),
                pod("p2", &[('a', At::Answering)]),
            ],
        ),
    );
    assert_eq!(
        (phase(&all), condition(&all, condition::READY)),
        (AdapterPhase::Ready, "True Serving".into())
    );
    assert_eq!(condition(&all, condition::RECONCILING), "False Serving");
    assert_eq!(
        (
            condition(&all, condition::VERIFIED),
            condition(&all, condition::LOADED)
        ),
        ("True Verified".into(), "True Loaded".into())
    );
}

#[test]
fn a_new_digest_is_tried_while_the_old_one_answers_and_then_takes_its_place() {
    let adapter = serving('a', 'b');
    let start = planned(
        &adapter,
        &seen(&adapter, vec![pod("p1", &[('a', At::Answering)])]),
    );
    assert_eq!(
        (stable(&start).unwrap(), candidate(&start).unwrap()),
        ("tone@aaaaaaaaaaaa".into(), "tone@bbbbbbbbbbbb".into())
    );
    assert!(
        condition(&start, condition::READY).starts_with("False"),
        "Ready speaks of the wanted version"
    );
    assert!(message(&start, condition::READY).contains("tone@aaaaaaaaaaaa answers meanwhile"));

    let adapter = with_status(adapter, start.status);
    let end = planned(
        &adapter,
        &seen(
            &adapter,
            vec![pod("p1", &[('a', At::Answering), ('b', At::Proven)])],
        ),
    );
    assert_eq!(
        (stable(&end).unwrap(), candidate(&end)),
        ("tone@bbbbbbbbbbbb".into(), None)
    );
    assert_eq!(end.status.history[0].result, "Ready");
}

#[test]
fn going_back_to_the_version_that_answers_drops_the_candidate() {
    let mut adapter = serving('a', 'a');
    adapter.status.as_mut().unwrap().candidate = Some(version("tone", 'b'));
    let plan = planned(
        &adapter,
        &seen(
            &adapter,
            vec![pod("p1", &[('a', At::Answering), ('b', At::Fetching)])],
        ),
    );
    assert_eq!(
        (candidate(&plan), phase(&plan)),
        (None, AdapterPhase::Ready)
    );
}

/// An Adapter with version `b` on its way while `a` answers.
fn on_the_way() -> Adapter {
    let mut adapter = serving('a', 'b');
    adapter.status.as_mut().unwrap().candidate = Some(version("tone", 'b'));
    adapter
}

#[test]
fn a_refused_candidate_leaves_the_old_version_answering_and_says_why() {
    let adapter = on_the_way();
    let pods = vec![
        pod("p1", &[('a', At::Answering), ('b', At::Proven)]),
        pod(
            "p2",
            &[
                ('a', At::Answering),
                ('b', At::Refused("the adapter changes nothing")),
            ],
        ),
    ];
    let plan = planned(&adapter, &seen(&adapter, pods));
    assert_eq!(
        (stable(&plan).unwrap(), candidate(&plan)),
        ("tone@aaaaaaaaaaaa".into(), None)
    );
    assert_eq!(
        (phase(&plan), condition(&plan, condition::LOADED)),
        (AdapterPhase::Failed, "False Refused".into())
    );
    assert_eq!(
        message(&plan, condition::LOADED),
        "pod p2: the adapter changes nothing"
    );
    assert_eq!(condition(&plan, condition::VERIFIED), "True Verified");
    assert_eq!(condition(&plan, condition::STALLED), "True Refused");
    assert_eq!(
        (
            plan.status.history[0].digest.clone(),
            plan.status.history[0].result.as_str()
        ),
        (digest('b'), "Failed")
    );

    // Nor is it tried again by itself, and the reason stays.
    let adapter = with_status(adapter, plan.status);
    let again = planned(
        &adapter,
        &seen(&adapter, vec![pod("p1", &[('a', At::Answering)])]),
    );
    assert_eq!(
        (candidate(&again), phase(&again)),
        (None, AdapterPhase::Failed)
    );
    assert_eq!(
        message(&again, condition::LOADED),
        "pod p2: the adapter changes nothing"
    );
    assert_eq!(
        Some(&again.status),
        adapter
            .status
            .as_ref()
            .map(|status| AdapterStatus {
                loaded: again.status.loaded.clone(),
                serving: again.status.serving.clone(),
                ..status.clone()
            })
            .as_ref(),
        "a failed Adapter does not change all the time"
    );
}

#[test]
fn what_may_get_better_is_a_warning_and_no_refusal() {
    let adapter = on_the_way();
    let pods = vec![pod(
        "p1",
        &[
            ('a', At::Answering),
            ('b', At::Stuck("no Secret models-s3")),
        ],
    )];
    let plan = planned(&adapter, &seen(&adapter, pods));
    assert_eq!(candidate(&plan).as_deref(), Some("tone@bbbbbbbbbbbb"));
    assert_eq!(condition(&plan, condition::VERIFIED), "False CannotFetch");
    assert_eq!(plan.status.serving[0].failing, ["p1: no Secret models-s3"]);
}

/// An Adapter whose first version was refused.
fn refused() -> Adapter {
    with_status(
        published('a'),
        AdapterStatus {
            history: vec![HistoryEntry {
                digest: digest('a'),
                result: "Failed".into(),
                message: Some("no good".into()),
                time: None,
            }],
            ..AdapterStatus::default()
        },
    )
}

#[rstest]
#[case::this_digest('a', true)]
#[case::another_digest('b', false)]
fn the_retry_annotation_counts_for_its_digest_and_once(#[case] letter: char, #[case] heard: bool) {
    let mut adapter = refused();
    adapter.metadata.annotations = Some([(annotation::RETRY.to_owned(), digest(letter))].into());
    // What the agent says now is of the first try.
    let pods = vec![pod("p1", &[('a', At::Refused("no good"))])];
    let plan = planned(&adapter, &seen(&adapter, pods));
    assert_eq!(
        (candidate(&plan).is_some(), plan.drop_retry),
        (heard, heard)
    );
    assert_eq!(plan.status.history.is_empty(), heard);
}

#[test]
fn pods_that_join_later_are_awaited_and_the_others_go_on() {
    let adapter = serving('a', 'a');
    let starting = PodSeen {
        name: "p3".into(),
        ready: false,
        agent: AgentSeen::Silent("cannot be reached".into()),
    };
    let pods = vec![
        pod("p1", &[('a', At::Answering)]),
        pod("p2", &[('a', At::Verified)]),
        starting,
    ];
    let plan = planned(&adapter, &seen(&adapter, pods));
    assert_eq!(
        (stable(&plan).as_deref(), plan.status.loaded.as_deref()),
        (Some("tone@aaaaaaaaaaaa"), Some("1/3"))
    );
    assert_eq!(
        (phase(&plan), condition(&plan, condition::READY)),
        (AdapterPhase::Degraded, "False Loading".into())
    );
    assert_eq!(plan.status.serving[0].failing, Vec::<String>::new());
}

#[test]
fn pods_from_before_the_agent_hold_a_first_version_back() {
    let adapter = with_status(
        published('a'),
        AdapterStatus {
            candidate: Some(version("tone", 'a')),
            ..AdapterStatus::default()
        },
    );
    let old = PodSeen {
        name: "old".into(),
        ready: true,
        agent: AgentSeen::Absent,
    };
    let plan = planned(
        &adapter,
        &seen(&adapter, vec![pod("p1", &[('a', At::Proven)]), old]),
    );
    assert_eq!(stable(&plan), None);
    assert!(message(&plan, condition::READY).contains("pod old runs without the agent"));
}

#[rstest]
#[case::no_deployment(|seen: &mut Seen| seen.targets[0].deployment = None, "NoDeployment", "True")]
#[case::opted_out(
    |seen: &mut Seen| seen.targets[0].deployment.as_mut().unwrap().metadata.labels = None,
    "NotOptedIn",
    "True"
)]
#[case::alias_of_the_base(
    |seen: &mut Seen| {
        let mut state = seen.targets[0].pods[0].state().unwrap().clone();
        state.engine.models.push("tone".into());
        seen.targets[0].pods[0].agent = AgentSeen::Speaks(Box::new(state));
    },
    "AliasIsModel",
    "False"
)]
#[case::another_base(
    |seen: &mut Seen| {
        let annotations = seen.targets[0].deployment.as_mut().unwrap().metadata.annotations.get_or_insert_default();
        annotations.insert(annotation::BASE_MODEL.into(), digest('f'));
    },
    "BaseModelDiffers",
    "False"
)]
#[case::older_rival(
    |seen: &mut Seen| {
        let mut rival = adapter("rival", 0);
        rival.spec.serving[0].alias = Some("tone".into());
        seen.adapters.push(rival);
    },
    "AliasTaken",
    "False"
)]
fn what_stands_in_the_way_is_named_and_stops_the_candidate(
    #[case] spoil: fn(&mut Seen),
    #[case] reason: &str,
    #[case] may_pass: &str,
) {
    let mut adapter = on_the_way();
    adapter.spec.base_model = Some(finetune_crds::shared::BaseModelReference {
        digest: Some(digest('e')),
        ..finetune_crds::shared::BaseModelReference::default()
    });
    let mut seen = seen(
        &adapter,
        vec![pod("p1", &[('a', At::Verified), ('b', At::Proven)])],
    );
    spoil(&mut seen);
    let plan = planned(&adapter, &seen);
    assert_eq!(
        condition(&plan, condition::READY),
        format!("False {reason}")
    );
    assert_eq!(
        condition(&plan, condition::RECONCILING),
        format!("{may_pass} {reason}")
    );
    assert_eq!(
        (stable(&plan).as_deref(), candidate(&plan)),
        (Some("tone@aaaaaaaaaaaa"), None)
    );
}

#[test]
fn the_base_is_checked_where_it_is_declared() {
    let mut adapter = published('a');
    adapter.spec.base_model = Some(finetune_crds::shared::BaseModelReference {
        digest: Some(digest('e')),
        ..finetune_crds::shared::BaseModelReference::default()
    });
    let mut seen = seen(&adapter, vec![pod("p1", &[])]);
    assert_eq!(
        condition(&planned(&adapter, &seen), condition::BASE_MODEL_CHECKED),
        "Unknown Unchecked"
    );
    let annotations = seen.targets[0]
        .deployment
        .as_mut()
        .unwrap()
        .metadata
        .annotations
        .get_or_insert_default();
    annotations.insert(annotation::BASE_MODEL.into(), digest('e'));
    assert_eq!(
        condition(&planned(&adapter, &seen), condition::BASE_MODEL_CHECKED),
        "True Same"
    );
}

#[test]
fn a_deleted_adapter_that_somebody_else_holds_says_so_and_serves_nothing_more() {
    let mut adapter = on_the_way();
    adapter.metadata.finalizers = Some(vec!["example.com/backup".into()]);
    adapter.metadata.deletion_timestamp = Some(Time(at(990)));
    let plan = planned(
        &adapter,
        &seen(&adapter, vec![pod("p1", &[('a', At::Answering)])]),
    );
    assert_eq!(phase(&plan), AdapterPhase::Terminating);
    assert_eq!((candidate(&plan), plan.status.loaded), (None, None));
}

#[test]
fn a_status_that_says_the_same_is_the_same() {
    let adapter = serving('a', 'a');
    let first = planned(
        &adapter,
        &seen(&adapter, vec![pod("p1", &[('a', At::Answering)])]),
    );
    let adapter = with_status(adapter, first.status.clone());
    let seen = seen(&adapter, vec![pod("p1", &[('a', At::Answering)])]);
    let later = plan(&adapter, &validate(&adapter, &seen), &seen, at(2000));
    assert_eq!(later.status, first.status);
}

mod api {
    use std::sync::Arc;

    use serde_json::Value;

    use super::*;
    use crate::adapter::reconcile;
    use crate::runtime::fake_api::{self, Asked};

    fn stored(adapter: &Adapter) -> Value {
        serde_json::to_value(adapter).unwrap()
    }

    /// An API server with one Adapter and its Deployment, which has no pods.
    fn answer(adapter: &Adapter, asked: &Asked) -> (u16, Value) {
        let path = asked.path.as_str();
        let list = |items: Vec<Value>| json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items});
        match (asked.method.as_str(), path) {
            ("GET", "/apis/finetune.dev/v1alpha1/namespaces/team-a/adapters") => {
                (200, list(vec![stored(adapter)]))
            }
            ("GET", "/apis/finetune.dev/v1alpha1/namespaces/team-a/adapters/tone") => {
                (200, stored(adapter))
            }
            ("GET", "/apis/apps/v1/namespaces/team-a/deployments/server") => {
                (200, serde_json::to_value(deployment()).unwrap())
            }
            ("GET", "/api/v1/namespaces/team-a/pods") => (200, list(vec![])),
            _ => (200, stored(adapter)),
        }
    }

    #[tokio::test]
    async fn the_status_is_all_that_is_written_and_onto_what_was_read() {
        let adapter = published('a');
        let served = adapter.clone();
        let (client, record) = fake_api::client(move |asked| answer(&served, asked));
        let ctx = Arc::new(fake_api::context(
            client,
            crate::settings::OperatorSettings::default(),
        ));
        reconcile(Arc::new(adapter), ctx).await.unwrap();
        let mut writes = record.writes();
        writes.retain(|asked| !asked.path.contains("/events"));
        assert_eq!(writes.len(), 1, "{writes:?}");
        assert!(writes[0].path.ends_with("/adapters/tone/status"));
        assert_eq!(writes[0].body["metadata"]["resourceVersion"], "7");
        assert_eq!(
            writes[0].body["status"]["candidate"]["version"],
            "tone@aaaaaaaaaaaa"
        );
        assert!(
            writes[0]
                .query
                .contains("fieldManager=finetune-operator-adapter")
        );
    }

    #[tokio::test]
    async fn nothing_is_written_when_nothing_changed() {
        let adapter = adapter("tone", 1);
        let at = |asked: &Asked| asked.path.ends_with("/status");
        let served = adapter.clone();
        let (client, record) = fake_api::client(move |asked| answer(&served, asked));
        let ctx = Arc::new(fake_api::context(
            client,
            crate::settings::OperatorSettings::default(),
        ));
        reconcile(Arc::new(adapter.clone()), ctx).await.unwrap();
        let writes = record.writes();
        let first = writes.iter().find(|asked| at(asked)).unwrap();
        let mut known = adapter;
        known.status = Some(serde_json::from_value(first.body["status"].clone()).unwrap());
        let served = known.clone();
        let (client, record) = fake_api::client(move |asked| answer(&served, asked));
        let ctx = Arc::new(fake_api::context(
            client,
            crate::settings::OperatorSettings::default(),
        ));
        reconcile(Arc::new(known), ctx).await.unwrap();
        assert!(record.writes().is_empty(), "{:?}", record.writes());
    }
}
