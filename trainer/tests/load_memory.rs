//! The memory of a load in 4 bits: the model as it is held, one tensor on its way, and little else. The only test of its
//! process, because it is the process that is measured.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's failure is a panic"
)]

mod memory;

use memory::{
    ALLOWANCE, MIB, anonymous, in_four_bits, load_in_four_bits, sizes, watched, write_base,
};
use trainer::base::BaseModelFiles;

#[test]
fn a_load_in_4_bits_takes_the_model_one_tensor_and_little_else() {
    let folder = tempfile::tempdir().unwrap();
    write_base(folder.path(), 4);
    memory::start_libtorch();
    let start = anonymous();

    let files = BaseModelFiles::open(folder.path()).unwrap();
    let (base, peak) = watched(|| load_in_four_bits(&files));
    let all = [sizes(files.config(), true), sizes(files.config(), false)].concat();
    let model = in_four_bits(files.config());
    let tensor = 2 * all.iter().max().unwrap();
    let dense = 2 * all.iter().sum::<u64>();
    assert!(
        model + tensor + ALLOWANCE < dense + model,
        "the base is too small to show anything"
    );
    let taken = peak - start;
    assert!(
        taken <= model + tensor + ALLOWANCE,
        "the load took {} MiB, expected at most {}: {} for the model, {} for a tensor",
        taken / MIB,
        (model + tensor + ALLOWANCE) / MIB,
        model / MIB,
        tensor / MIB
    );
    assert_eq!(base.config().layers, 4);
}
