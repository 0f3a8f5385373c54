//! What the tests of the operations share. It must never draw from libtorch's generator: that is one for the whole process, so
//! that what a test draws would depend on the tests beside it.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

/// What tensors are made in, but where a test says otherwise.
pub(super) const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Numbers of this shape in fp32, uniform, of mean 0 and variance 1: the same for the same seed, on every machine.
pub(super) fn random(shape: &[i64], seed: u64) -> Tensor {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let limit = 3.0_f32.sqrt();
    let count = shape.iter().product::<i64>();
    let values: Vec<f32> = (0..count)
        .map(|_| generator.random_range(-limit..limit))
        .collect();
    Tensor::from_slice(&values).view(shape)
}

/// Fails unless both are the same but for the order in which a processor sums: to 1e-5 of the greatest number, some eighty
/// times the step of fp32.
#[track_caller]
pub(super) fn assert_close(ours: &Tensor, expected: &Tensor) {
    assert_eq!(ours.size(), expected.size());
    let difference = (ours - expected).abs().max().double_value(&[]);
    let allowed = 1e-5 * expected.abs().max().double_value(&[]);
    assert!(
        difference <= allowed,
        "they differ by {difference}, expected {allowed} at most"
    );
}
