//! The memory of the log-probabilities that `golden.json` promises of a base that was quantised for training: one dense layer at a
//! time. The only test of its process, because it is the process that is measured.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's failure is a panic"
)]

mod memory;

use finetune_numerics::adapter::Lora;
use finetune_numerics::adapter::LoraSettings as Settings;
use finetune_numerics::model::score_layer_by_layer;
use memory::{
    ALLOWANCE, MIB, anonymous, in_four_bits, load_in_four_bits, sizes, watched, write_base,
};
use tch::Kind;
use trainer::base::BaseModelFiles;

const LAYERS: i64 = 6;

#[test]
fn scores_of_a_quantised_base_take_one_dense_layer_beside_embedding_and_head() {
    let folder = tempfile::tempdir().unwrap();
    write_base(folder.path(), LAYERS);
    memory::start_libtorch();
    let start = anonymous();

    let files = BaseModelFiles::open(folder.path()).unwrap();
    let config = files.config();
    // The 4-bit base stays, as if nobody had dropped it.
    let base = load_in_four_bits(&files);
    let settings = Settings {
        target_modules: vec!["all-linear".to_owned()],
        ..Settings::default()
    };
    let lora = Lora::new(config, &settings, 1).unwrap();
    let texts: Vec<Vec<i64>> = (0..4)
        .map(|text| (0..96).map(|token| (token * 31 + text) % 320).collect())
        .collect();
    let weights = files.weights().unwrap();
    let (scores, peak) = watched(|| {
        score_layer_by_layer(config, weights.as_ref(), Kind::BFloat16, &lora, &texts).unwrap()
    });
    assert_eq!(scores.len(), texts.len());
    assert_eq!(base.config().layers, LAYERS);

    let layers = 2 * sizes(config, true).iter().sum::<u64>();
    let layer = layers / LAYERS as u64;
    let rest = 2 * sizes(config, false).iter().sum::<u64>();
    let most = in_four_bits(config) + layer + rest + ALLOWANCE;
    assert!(
        most < in_four_bits(config) + layers,
        "the base is too small to show anything"
    );
    let taken = peak - start;
    assert!(
        taken <= most,
        "the scores took {} MiB, expected at most {}: {} for the 4-bit base, {} for a layer, {} for embedding and head",
        taken / MIB,
        most / MIB,
        in_four_bits(config) / MIB,
        layer / MIB,
        rest / MIB
    );
}
