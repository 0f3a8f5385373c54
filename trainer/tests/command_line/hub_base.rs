//! A base on the Hugging Face Hub, by hand: a job keeps the commit that it was trained on, also once it is done.

use serde_json::json;
use wiremock::MockServer;

use crate::bench::{Bench, Ended, fixture};
use crate::hub::{self, COMMIT, NEWER};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_done_is_evaluated_on_the_commit_that_it_was_trained_on() {
    let hub = MockServer::start().await;
    hub::serve(&hub, fixture("tiny-llama")).await;
    let bench = Bench::with("tiny-llama", |job| {
        job["spec"]["baseModel"] = json!({ "uri": "hf://org/tiny" });
        job["spec"]["training"]["maxSteps"] = 2.into();
    });
    let run = |name: &str| {
        let mut command = bench.command(name);
        command.env("HF_ENDPOINT", hub.uri()).env_remove("HF_TOKEN");
        Ended::from(command.output().unwrap()).succeeded()
    };
    let outcome = run("train").outcome();
    assert_eq!(outcome["baseModel"]["revision"], COMMIT);
    run("evaluate");
    let asked = hub.received_requests().await.unwrap();
    assert!(
        asked
            .iter()
            .all(|request| !request.url.path().contains(NEWER))
    );
}
