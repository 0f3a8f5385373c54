//! What the engine refuses for want of memory.

use std::path::PathBuf;

use finetune_numerics::model::{BLOCK, LoadOptions, Storage};
use tch::Kind;

use super::*;
use crate::base::BaseModelFiles;
use crate::serve::key_value_memory::Budget;

fn fixture(name: &str) -> PathBuf {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    PathBuf::from(fixtures).join(name)
}

/// An engine that may use so many bytes beside its base, and those that a block of tokens takes.
fn engine(memory: impl Fn(u64) -> u64) -> Engine {
    let files = BaseModelFiles::open(&fixture("tiny-llama")).unwrap();
    let options = LoadOptions {
        compute: Kind::Float,
        storage: Storage::Frozen,
    };
    let base = Base::load(files.config(), files.weights().unwrap().as_ref(), &options).unwrap();
    let token_bytes = base.config().key_value_bytes(base.compute()) as u64;
    let budget = Budget::Rest {
        memory: memory(token_bytes * BLOCK as u64),
        base: 0,
    };
    let limits = Limits {
        context: 64,
        running: 8,
        waiting: 8,
        adapters: 8,
        rank: 64,
        threads: 1,
    };
    Engine::start(
        "tiny",
        base,
        Arc::new(files.into_tokenizer()),
        limits,
        KeyValueMemory::new(budget, token_bytes).unwrap(),
        Metrics::new().unwrap(),
    )
    .unwrap()
}

#[tokio::test]
async fn an_adapter_that_leaves_too_little_memory_for_answers_is_refused_at_its_load() {
    let folder = fixture("adapters/tiny-llama");
    let lora = adapter_files::read(&folder, &engine(|block| 2 * block).config, 64).unwrap();
    let adapter = (lora.parameters().count() * ADAPTER_NUMBER_BYTES) as u64;
    // Room for one adapter and two blocks of tokens, not for two adapters.
    let engine = engine(|block| 4 * block + adapter);
    engine.load("first", "here", &folder, 0).unwrap();
    let refused = engine.load("second", "here", &folder, 0).unwrap_err();
    assert!(refused.to_string().contains("--kv-cache-memory"));
    assert!(matches!(refused, RequestError::NoRoom(_)), "{refused:?}");
    let names: Vec<_> = engine
        .adapters()
        .into_iter()
        .map(|served| served.name)
        .collect();
    assert_eq!(names, ["first"]);
    engine.unload("first").unwrap();
    // The worker lets go of the weights in its own time.
    while engine.load("second", "here", &folder, 0).is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    engine.halt().await;
}
