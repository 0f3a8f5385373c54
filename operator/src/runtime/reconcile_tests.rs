//! The frame around reconciles: what happens to an object that fails, panics, or does not parse, and to all others.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use finetune_crds::Adapter;
use finetune_crds::names::field_manager;
use serde_json::{Value, json};

use super::*;
use crate::runtime::fake_api::{self, Asked, Record, refusal};

const ADAPTERS: &str = "/apis/finetune.dev/v1alpha1/adapters";
const TONE: &str = "/apis/finetune.dev/v1alpha1/namespaces/team-a/adapters/tone";

type Guard = DeserializeGuard<Adapter>;

/// An Adapter as the API server has it; `engine` is the type of its engine.
fn stored(name: &str, engine: &str) -> Value {
    json!({
        "apiVersion": "finetune.dev/v1alpha1", "kind": "Adapter",
        "metadata": {
            "name": name, "namespace": "team-a", "uid": format!("uid-{name}"), "resourceVersion": "7", "generation": 3,
        },
        "spec": {"serving": [{"deploymentName": "server", "engine": {"type": engine, "port": 8000}}]},
    })
}

fn guarded(stored: &Value) -> Arc<Guard> {
    Arc::new(serde_json::from_value(stored.clone()).unwrap())
}

/// A context at a server that holds `stored` as the Adapter `tone`, and takes every write unless `special` answers first.
fn context(
    stored: Value,
    special: impl Fn(&Asked) -> Option<(u16, Value)> + Send + Sync + 'static,
) -> (Arc<Context>, Record) {
    let (client, record) = fake_api::client(move |asked| {
        special(asked).unwrap_or_else(|| match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", _) => (200, stored.clone()),
            _ => (200, json!({"metadata": {"name": "x"}})),
        })
    });
    let context = fake_api::context(client, crate::settings::OperatorSettings::default());
    (Arc::new(context), record)
}

async fn fine(_: Arc<Adapter>, _: Arc<Context>) -> Result<Action, Error> {
    Ok(Action::await_change())
}

fn writes(record: &Record) -> Vec<String> {
    let written = record.writes();
    let line = |asked: &Asked| format!("{} {}", asked.method, asked.path);
    written.iter().map(line).collect()
}

#[tokio::test]
async fn a_reconcile_that_panics_is_an_error_with_a_count_and_an_event_on_its_object() {
    let tone = stored("tone", "Finetune");
    let (context, record) = context(tone.clone(), |_| None);
    context.metrics.controller("x", 1);
    let reconcile = |_: Arc<Adapter>, _: Arc<Context>| async {
        let nothing: Vec<u8> = Vec::new();
        let index = nothing.len() + 3;
        assert!(index < nothing.len(), "row {index} is not there");
        Ok(Action::await_change())
    };
    let outcome = frame("x", guarded(&tone), Arc::clone(&context), reconcile).await;
    let error = outcome.unwrap_err();
    assert!(error.to_string().contains("row 3 is not there"), "{error}");
    let text = context.metrics.text().unwrap();
    assert!(text.contains("controller_runtime_reconcile_panics_total{controller=\"x\"} 1"));
    let events = record.writes();
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(events[0].path.ends_with("/events"));
    assert_eq!(events[0].body["regarding"]["name"], "tone");
    assert!(events[0].body["note"].as_str().unwrap().contains("row 3"));
    // And it is tried again, later each time.
    let first = rest("x", &guarded(&tone), &error, &context);
    assert_ne!(first, Action::await_change());
    assert_eq!(context.backoff.len(), 1);
}

#[tokio::test]
async fn an_object_that_makes_the_reconciler_panic_stops_neither_the_process_nor_another_object() {
    let list = json!({
        "kind": "AdapterList", "apiVersion": "finetune.dev/v1alpha1", "metadata": {"resourceVersion": "9"},
        "items": [stored("bad", "Finetune"), stored("good", "Finetune")],
    });
    let (context, _) = context(json!({}), move |asked| {
        (asked.method == "GET" && asked.path == ADAPTERS).then(|| (200, list.clone()))
    });
    let (bad, good) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let reconcile = move |adapter: Arc<Adapter>, _: Arc<Context>| {
        let (bad, good, stop) = (Arc::clone(&bad), Arc::clone(&good), stop.clone());
        async move {
            if adapter.name_any() == "bad" {
                // Once more after its rest, the other having been done meanwhile.
                if bad.fetch_add(1, Ordering::SeqCst) > 0 && good.load(Ordering::SeqCst) > 0 {
                    stop.cancel();
                }
                panic!("bad");
            }
            good.fetch_add(1, Ordering::SeqCst);
            Ok(Action::await_change())
        }
    };
    let controller = Controller::new(
        Api::<Guard>::all(context.client.clone()),
        watcher::Config::default(),
    );
    let ended = run("x", controller, context, shutdown, reconcile);
    let ended = tokio::time::timeout(Duration::from_mins(2), ended).await;
    ended.expect("both objects are reconciled").unwrap();
}

#[tokio::test]
async fn an_object_that_does_not_parse_gets_a_condition_and_an_event_once() {
    let later = stored("tone", "Later");
    let (ctx, record) = context(later.clone(), |_| None);
    let outcome = frame("x", guarded(&later), Arc::clone(&ctx), fine).await;
    assert_eq!(outcome.unwrap(), Action::await_change());
    let written = record.writes();
    assert_eq!(written.len(), 2, "{written:?}");
    assert_eq!(written[0].path, format!("{TONE}/status"));
    assert!(
        written[0]
            .query
            .contains(&format!("fieldManager={}", field_manager::MALFORMED))
    );
    let condition = &written[0].body["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"]),
        (&json!("Malformed"), &json!("True"))
    );
    assert_eq!(condition["observedGeneration"], 3);
    assert!(
        condition["message"].as_str().unwrap().contains("Later"),
        "{condition}"
    );
    assert!(written[1].path.ends_with("/events"));

    let mut told = later.clone();
    told["status"] = json!({"conditions": [condition]});
    let (ctx, record) = context(told, |_| None);
    frame("x", guarded(&later), ctx, fine).await.unwrap();
    assert_eq!(writes(&record), Vec::<String>::new());
}

#[tokio::test]
async fn a_condition_that_the_api_server_refuses_leaves_the_event() {
    let later = stored("tone", "Later");
    let (ctx, record) = context(later.clone(), |asked| {
        asked
            .path
            .ends_with("/status")
            .then(|| refusal(422, "Invalid", "spec.serving[0].engine.type"))
    });
    frame("x", guarded(&later), ctx, fine).await.unwrap();
    assert!(
        writes(&record)[1].ends_with("/events"),
        "{:?}",
        writes(&record)
    );
}

#[tokio::test]
async fn an_object_that_parses_again_loses_the_condition_and_is_reconciled() {
    let mut tone = stored("tone", "Finetune");
    tone["metadata"]["managedFields"] =
        json!([{"manager": field_manager::MALFORMED, "operation": "Apply"}]);
    let (ctx, record) = context(tone.clone(), |_| None);
    let reconciled = Arc::new(Mutex::new(false));
    let seen = Arc::clone(&reconciled);
    let reconcile = move |_: Arc<Adapter>, _: Arc<Context>| {
        *seen.lock().unwrap() = true;
        async { Ok(Action::await_change()) }
    };
    frame("x", guarded(&tone), ctx, reconcile).await.unwrap();
    let written = record.writes();
    assert_eq!(writes(&record), [format!("PATCH {TONE}/status")]);
    // An empty status would be a field that the manager still owns.
    assert_eq!(written[0].body.get("status"), None);
    assert!(*reconciled.lock().unwrap());
}

#[tokio::test]
async fn the_finalizer_of_earlier_versions_goes_and_nobody_elses_even_if_the_object_does_not_parse()
{
    for engine in ["Finetune", "Later"] {
        let mut tone = stored("tone", engine);
        tone["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        tone["metadata"]["finalizers"] = json!(["example.com/backup", "finetune.dev/adapter"]);
        let (ctx, record) = context(tone.clone(), |_| None);
        frame("x", guarded(&tone), ctx, fine).await.unwrap();
        assert_eq!(writes(&record), [format!("PATCH {TONE}")], "{engine}");
        let metadata = &record.writes()[0].body["metadata"];
        assert_eq!(metadata["finalizers"], json!(["example.com/backup"]));
        assert_eq!(
            metadata["resourceVersion"], "7",
            "nobody else's may be lost"
        );
    }
}

#[tokio::test]
async fn a_conflict_is_no_success_and_a_success_forgets_earlier_failures() {
    let tone = stored("tone", "Finetune");
    let (ctx, _) = context(tone.clone(), |_| None);
    let failure = Error::Deadline(DEADLINE);
    rest("x", &guarded(&tone), &failure, &ctx);
    let conflict = |_: Arc<Adapter>, ctx: Arc<Context>| async move {
        let (client, _) = fake_api::client(|_| refusal(409, "Conflict", "changed"));
        drop(ctx);
        let api: Api<Adapter> = Api::namespaced(client, "team-a");
        api.get("tone")
            .await
            .map_err(Error::cluster("read the Adapter"))
            .map(|_| Action::await_change())
    };
    frame("x", guarded(&tone), Arc::clone(&ctx), conflict)
        .await
        .unwrap();
    assert_eq!(
        ctx.backoff.len(),
        1,
        "a conflict forgot the failure before it"
    );
    frame("x", guarded(&tone), Arc::clone(&ctx), fine)
        .await
        .unwrap();
    assert_eq!(ctx.backoff.len(), 0);
}

#[tokio::test]
async fn an_object_that_is_deleted_while_it_fails_leaves_nothing_behind() {
    let list = |items: Vec<Value>| {
        json!({
            "kind": "AdapterList", "apiVersion": "finetune.dev/v1alpha1", "metadata": {"resourceVersion": "9"}, "items": items,
        })
    };
    let present = list(vec![stored("tone", "Finetune")]);
    // The watch tells of the deletion, but only after the first failure.
    let failures = Arc::new(AtomicUsize::new(0));
    let failed = Arc::clone(&failures);
    let (ctx, _) = context(json!({}), move |asked| {
        if asked.method != "GET" || asked.path != ADAPTERS {
            return None;
        }
        let nothing = json!({"type": "BOOKMARK", "object": {
            "kind": "Adapter", "apiVersion": "finetune.dev/v1alpha1", "metadata": {"resourceVersion": "9"},
        }});
        let gone = json!({"type": "DELETED", "object": stored("tone", "Finetune")});
        Some((
            200,
            match asked.query.contains("watch=true") {
                false => present.clone(),
                true if failed.load(Ordering::SeqCst) == 0 => nothing,
                true => gone,
            },
        ))
    });
    let shutdown = CancellationToken::new();
    let reconcile = move |_: Arc<Adapter>, _: Arc<Context>| {
        failures.fetch_add(1, Ordering::SeqCst);
        async { Err(Error::Deadline(DEADLINE)) }
    };
    let controller = Controller::new(
        Api::<Guard>::all(ctx.client.clone()),
        watcher::Config::default(),
    );
    let running = tokio::spawn(run(
        "x",
        controller,
        Arc::clone(&ctx),
        shutdown.clone(),
        reconcile,
    ));
    let forgotten = async {
        let counted = || {
            let text = ctx.metrics.text().unwrap();
            text.contains("error=\"deadline\"}") && !text.contains("error=\"deadline\"} 0")
        };
        while !(counted() && ctx.backoff.len() == 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(2), forgotten)
        .await
        .expect("the count is dropped");
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_cannot_be_listed_is_asked_for_less_and_less_often() {
    let (ctx, record) = context(json!({}), |asked| {
        (asked.path == ADAPTERS).then(|| refusal(404, "NotFound", "no such kind"))
    });
    ctx.readiness.wait_for("x");
    let listed = first_list::<Guard>("x", Arc::clone(&ctx));
    // Of a clock that stands still while anything is at work.
    let ended = tokio::time::timeout(Duration::from_hours(1), listed).await;
    assert!(ended.is_err(), "it gave up");
    let tries = record.lines().len();
    assert!((10..=200).contains(&tries), "{tries} tries within an hour");
}
