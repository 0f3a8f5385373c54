//! The whole agent, over real HTTP and a real store in a folder, beside an engine that can be told to misbehave.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test, a panic is the report"
)]

mod bench;
mod fake_engine;
mod own_answers;
mod pod_ends;
mod request_bodies;
mod store_away;

use futures::StreamExt;
use operator::agent::desired::DesiredVersion;
use operator::agent::desired::Role::{Candidate, Stable};
use operator::agent::state::{GoldenState, State, VersionState};
use serde_json::json;

use bench::{Bench, of};
use fake_engine::{BASE, Fault, SETTLE};

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_answers_once_its_version_is_proven_and_only_known_names_answer() {
    let bench = Bench::start().await;
    assert!(bench.ready().await.is_err());
    let one = bench.publish("tone", 0.25).await;
    bench.desire(&[("tone", &[(&one, Stable)])]);
    bench.until_ready().await;

    let (status, body) = bench.complete("tone").await;
    assert_eq!(
        (status, &body["model"], &body["choices"][0]["text"]),
        (200, &json!("tone"), &json!("shift 0.25"))
    );
    let (status, body) = bench.complete(BASE).await;
    assert_eq!(
        (status, &body["choices"][0]["text"]),
        (200, &json!("shift 0"))
    );
    let (status, body) = bench.complete("stranger").await;
    assert_eq!(
        (status, &body["error"]["type"]),
        (404, &json!("NotFoundError"))
    );
    // The engine's own name of a version is not for clients: it would outlive a rollback.
    assert_eq!(bench.complete(&one.version).await.0, 404);
    assert_eq!(
        bench
            .post("/v1/completions", &json!({"prompt": "x"}))
            .await
            .status(),
        400
    );
    assert_eq!(bench.models().await, [BASE, "tone"]);
    for (name, status) in [(BASE, 200), ("tone", 200), ("stranger", 404)] {
        let url = format!("http://{}/v1/models/{name}", bench.proxy());
        let response = bench.client.get(url).send().await.unwrap();
        assert_eq!(response.status(), status);
        let body: serde_json::Value = response.json().await.unwrap();
        let id = (status == 200).then_some(name);
        assert_eq!(body["id"].as_str(), id, "{body}");
    }

    let unload = json!({"lora_name": one.version});
    assert_eq!(
        bench
            .post("/v1/unload_lora_adapter", &unload)
            .await
            .status(),
        404
    );
    assert_eq!(
        bench.post("/v1/load_lora_adapter", &unload).await.status(),
        404
    );
    assert_eq!(
        bench.engine.with().loads,
        std::slice::from_ref(&one.version)
    );

    let files = bench.adapters().join(one.digest.replace(':', "-"));
    assert!(files.join("golden.json").exists() && !files.join("README.md").exists());
    let metrics = bench.metrics().await;
    assert!(
        metrics.contains(r#"finetune_agent_requests_total{alias="tone",status="2xx"} 1"#),
        "{metrics}"
    );
    assert!(!metrics.contains("stranger"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_restarted_empty_is_not_ready_then_filled_again_and_never_answers_as_the_base()
 {
    let bench = Bench::start().await;
    let one = bench.publish("tone", 0.25).await;
    bench.desire(&[("tone", &[(&one, Stable)])]);
    bench.until_ready().await;

    bench.engine.restart();
    let why = bench.ready().await.unwrap_err();
    assert!(why.contains("does not hold"), "{why}");
    let mut statuses = vec![];
    for _ in 0..6000 {
        let (status, body) = bench.complete("tone").await;
        statuses.push(status);
        if status == 200 {
            assert_eq!(body["choices"][0]["text"], "shift 0.25");
            break;
        }
        assert_eq!(status, 503, "{body}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(statuses.first(), Some(&503));
    assert_eq!(statuses.last(), Some(&200), "{statuses:?}");
    bench.until_ready().await;
    assert_eq!(
        bench.engine.with().loads,
        [one.version.clone(), one.version.clone()]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_serves_the_base_in_silence_fails_the_golden_test_until_it_is_restarted() {
    let bench = Bench::start().await;
    bench.engine.with().fault = Some(Fault::SilentBase);
    let one = bench.publish("tone", 0.25).await;
    bench.desire(&[("tone", &[(&one, Stable)])]);
    bench
        .until("failed", |state| {
            of(state, &one).is_some_and(|one| one.permanent)
        })
        .await;
    let state = bench.version(&one).await;
    assert_eq!((state.verified, state.golden), (true, GoldenState::Failed));
    assert!(state.error.unwrap().contains("answers as the base does"));
    assert_eq!(bench.complete("tone").await.0, 503);
    assert!(bench.ready().await.is_err());
    bench
        .until("unloaded", |state| {
            !state.engine.models.contains(&one.version)
        })
        .await;
    tokio::time::sleep(SETTLE).await;
    assert_eq!(
        bench.engine.with().loads.len(),
        1,
        "it was tried again without a reason"
    );

    // Taken away and put back: someone asks for another try.
    bench.engine.with().fault = None;
    bench.desire(&[]);
    bench
        .until("forgotten", |state| state.versions.is_empty())
        .await;
    bench.desire(&[("tone", &[(&one, Stable)])]);
    bench.until_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_waits_for_the_proof_loses_no_request_and_drains_before_it_unloads() {
    let bench = Bench::start().await;
    let one = bench.publish("tone", 0.25).await;
    let two = bench.publish("tone", 0.5).await;
    bench.desire(&[("tone", &[(&one, Stable)])]);
    bench.until_ready().await;

    bench.desire(&[("tone", &[(&one, Stable), (&two, Candidate)])]);
    let proven = bench
        .until("proven", |state| {
            of(state, &two).is_some_and(VersionState::is_proven)
        })
        .await;
    assert_eq!(proven.aliases["tone"], one.version);
    assert_eq!(
        bench.complete("tone").await.1["choices"][0]["text"],
        "shift 0.25"
    );

    // A stream that began on the old version.
    bench.engine.finish_streams.send_replace(false);
    let stream = bench
        .post("/v1/completions", &json!({"model": "tone", "stream": true}))
        .await;
    assert_eq!(stream.headers()["x-finetune-version"], one.version.as_str());
    let mut stream = stream.bytes_stream();
    let first = stream.next().await.unwrap().unwrap();
    assert!(
        std::str::from_utf8(&first)
            .unwrap()
            .contains(r#""model":"tone""#),
        "{first:?}"
    );

    bench.desire(&[("tone", &[(&two, Stable)])]);
    let mut shifts: Vec<String> = vec![];
    // Until it moved, and for a while after.
    for _ in 0..6000 {
        let (status, body) = bench.complete("tone").await;
        assert_eq!(status, 200, "{body}");
        shifts.push(body["choices"][0]["text"].as_str().unwrap().to_owned());
        if shifts.iter().filter(|shift| *shift == "shift 0.5").count() > 20 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    shifts.dedup();
    assert_eq!(
        shifts,
        ["shift 0.25", "shift 0.5"],
        "the alias moved once and not back"
    );
    let held = bench.state().await;
    assert!(
        held.engine.models.contains(&one.version),
        "unloaded under a running stream"
    );
    let files = bench.adapters().join(one.digest.replace(':', "-"));
    assert!(
        files.exists(),
        "an engine may read them again when it evicts"
    );

    bench.engine.finish_streams.send_replace(true);
    let rest: Vec<_> = stream.map(|chunk| chunk.unwrap()).collect().await;
    assert!(rest.concat().ends_with(b"data: [DONE]\n\n"));
    bench
        .until("unloaded", |state| {
            !state.engine.models.contains(&one.version)
        })
        .await;
    assert_eq!(
        bench.engine.with().unloads,
        std::slice::from_ref(&one.version)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_unload_holds_up_neither_another_load_nor_readiness() {
    let bench = Bench::start().await;
    bench.engine.with().fault = Some(Fault::HungUnload);
    let one = bench.publish("tone", 0.25).await;
    let other = bench.publish("form", 0.5).await;
    bench.desire(&[("tone", &[(&one, Stable)])]);
    bench.until_ready().await;
    bench.desire(&[]);
    bench
        .until("unloading", |_| !bench.engine.with().unloads.is_empty())
        .await;
    bench.desire(&[("form", &[(&other, Stable)])]);
    let answers = |state: &State| state.aliases.contains_key("form");
    bench.until("answering", answers).await;
    bench.until_ready().await;
    assert_eq!(bench.complete("form").await.0, 200);
    assert_eq!(bench.complete("tone").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_version_stay_while_the_engine_holds_it_and_go_with_it() {
    let bench = Bench::start().await;
    let one = bench.publish("tone", 0.25).await;
    let two = bench.publish("tone", 0.5).await;
    let files = |version: &DesiredVersion| bench.adapters().join(version.digest.replace(':', "-"));
    bench.desire(&[("tone", &[(&one, Stable)])]);
    bench.until_ready().await;
    bench.desire(&[("tone", &[(&two, Candidate), (&one, Stable)])]);
    bench
        .until("both loaded", |state| {
            of(state, &two).is_some_and(|two| two.golden == GoldenState::Passed)
        })
        .await;
    assert!(files(&one).exists() && files(&two).exists());
    bench.desire(&[("tone", &[(&two, Stable)])]);
    bench
        .until("the old files gone", |_| !files(&one).exists())
        .await;
    assert!(bench.engine.with().unloads.contains(&one.version));
    assert!(files(&two).exists());
    bench.until_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_artefacts_are_refused_before_the_engine_sees_them_and_hold_up_nothing() {
    let bench = Bench::start().await;
    let good = bench.publish("tone", 0.25).await;
    let idle = bench.publish("idle", 0.0).await;
    let damaged = bench.publish("damaged", 0.5).await;
    let path = damaged.uri.strip_prefix("file://").unwrap();
    let weights = std::path::Path::new(path).join("adapter_model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();

    bench.desire(&[
        ("damaged", &[(&damaged, Candidate)]),
        ("idle", &[(&idle, Candidate)]),
        ("tone", &[(&good, Stable)]),
    ]);
    bench.until_ready().await;
    let state = bench
        .until("judged", |state| {
            state
                .versions
                .iter()
                .filter(|version| version.permanent)
                .count()
                == 2
        })
        .await;
    let error = |version| of(&state, version).unwrap().error.clone().unwrap();
    assert!(
        error(&damaged).contains("adapter_model.safetensors has digest"),
        "{}",
        error(&damaged)
    );
    assert!(error(&idle).contains("changes nothing"), "{}", error(&idle));
    assert!(!of(&state, &damaged).unwrap().verified);
    assert_eq!(
        bench.engine.with().loads,
        std::slice::from_ref(&good.version)
    );
    assert_eq!(bench.complete("idle").await.0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_engine_is_final_and_says_what_the_engine_said() {
    let bench = Bench::start().await;
    bench.engine.with().fault = Some(Fault::RefusedLoads);
    let one = bench.publish("tone", 0.25).await;
    bench.desire(&[("tone", &[(&one, Candidate)])]);
    bench
        .until("refused", |state| {
            of(state, &one).is_some_and(|one| one.permanent)
        })
        .await;
    assert!(
        bench
            .version(&one)
            .await
            .error
            .unwrap()
            .contains("rank 64 is greater than 16")
    );
    tokio::time::sleep(SETTLE).await;
    assert_eq!(bench.engine.with().loads.len(), 1);
    bench.until_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_not_in_the_store_yet_is_waited_for() {
    let bench = Bench::start().await;
    let one = bench.publish("tone", 0.25).await;
    let store = bench.folder.path().join("store");
    let hidden = bench.folder.path().join("hidden");
    std::fs::rename(&store, &hidden).unwrap();
    bench.desire(&[("tone", &[(&one, Stable)])]);
    let state = bench
        .until("missing", |state| {
            of(state, &one).is_some_and(|one| one.error.is_some())
        })
        .await;
    assert!(!of(&state, &one).unwrap().permanent);
    std::fs::rename(&hidden, &store).unwrap();
    bench.until_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_restarts_finds_what_is_loaded_and_proves_it_without_loading_again() {
    let mut bench = Bench::start().await;
    let one = bench.publish("tone", 0.25).await;
    bench.desire(&[("tone", &[(&one, Stable)])]);
    bench.until_ready().await;
    bench.stop_agent().await;
    bench.start_agent();
    bench.until_ready().await;
    assert_eq!(bench.complete("tone").await.0, 200);
    assert_eq!(bench.engine.with().loads.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desired_file_that_does_not_parse_changes_nothing_and_is_reported() {
    let bench = Bench::start().await;
    let one = bench.publish("tone", 0.25).await;
    bench.desire(&[("tone", &[(&one, Stable)])]);
    bench.until_ready().await;
    bench.write_desired(b"{");
    let state = bench
        .until("reported", |state| state.desired_error.is_some())
        .await;
    assert_eq!(state.aliases["tone"], one.version);
    assert_eq!(bench.complete("tone").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_engine_core_makes_the_pod_unready_although_it_lists_its_models() {
    let bench = Bench::start().await;
    bench.desire(&[]);
    bench.until_ready().await;
    bench.engine.with().fault = Some(Fault::DeadCore);
    let why = bench.ready().await.unwrap_err();
    assert!(why.contains("500"), "{why}");
}
