//! The store is away: what is here goes on.

use operator::agent::desired::Role::Stable;

use crate::bench::Bench;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_restarts_while_its_store_is_away_serves_what_it_has() {
    let mut bench = Bench::start().await;
    let one = bench.publish("tone", 0.25).await;
    bench.desire(&[("tone", &[(&one, Stable)])]);
    bench.until_ready().await;
    bench.stop_agent().await;
    std::fs::remove_dir_all(bench.folder.path().join("store")).unwrap();
    bench.start_agent();
    bench.until_ready().await;
    assert_eq!(bench.complete("tone").await.0, 200);
    assert_eq!(bench.engine.with().loads.len(), 1);
}
