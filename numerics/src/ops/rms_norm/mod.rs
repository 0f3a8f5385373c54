//! Root mean square normalisation, y = x / rms(x) · weight, in fp32 whatever the type of the activations.
//!
//! Zhang and Sennrich, 2019; transformers' `LlamaRMSNorm`, and with an offset of 1 its `GemmaRMSNorm`.

mod cpu;

use half::bf16;
use tch::Tensor;

use super::Result;
use super::profile::{Operation, timed};
use super::side::Side;
use super::trained::Gradient;

/// What kind of norm it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSettings {
    /// Added to the mean square.
    pub epsilon: f64,
    /// Added to the weight.
    pub offset: f64,
}

/// What the backward needs.
#[derive(Debug)]
pub struct SavedNorm {
    /// The input (M, H).
    input: Tensor,
    /// Weight + offset (H).
    weight: Tensor,
    /// 1 / rms of each row (M), fp32.
    inverse: Tensor,
}

/// x (M, H), weight (H) in fp32; returns y (M, H) in the type of x.
pub fn forward(x: &Tensor, weight: &Tensor, settings: NormSettings) -> Result<(Tensor, SavedNorm)> {
    let weight = if settings.offset == 0.0 {
        weight.shallow_clone()
    } else {
        weight.f_add_scalar(settings.offset)?
    };
    let side = Side::of(x, "a norm")?;
    timed(Operation::Norm, || match side {
        Side::CpuBrain => cpu::forward::<bf16>(x, weight, settings.epsilon),
        Side::CpuFloat => cpu::forward::<f32>(x, weight, settings.epsilon),
    })
}

/// The gradient for x (M, H) from that for y; that for the weight, `weight_gradient` (H), is added to.
pub fn backward(
    saved: &SavedNorm,
    dy: &Tensor,
    weight_gradient: Option<&Gradient>,
) -> Result<Tensor> {
    let side = Side::of(dy, "a norm")?;
    timed(Operation::Norm, || match side {
        Side::CpuBrain => cpu::backward::<bf16>(saved, dy, weight_gradient),
        Side::CpuFloat => cpu::backward::<f32>(saved, dy, weight_gradient),
    })
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::ops::test_support::{FLOAT, assert_close, random};
    use rstest::rstest;

    #[rstest]
    #[case(0.0)]
    #[case(1.0)]
    fn equals_automatic_differentiation(#[case] offset: f64) {
        let x = random(&[5, 24], 1).set_requires_grad(true);
        let weight = random(&[24], 2).set_requires_grad(true);
        let dy = random(&[5, 24], 3);
        let settings = NormSettings {
            epsilon: 1e-3,
            offset,
        };
        let mean = x.square().mean_dim(-1, true, Kind::Float);
        let expected = &x * (mean + settings.epsilon).rsqrt() * (&weight + offset);
        (&expected * &dy).sum(Kind::Float).backward();

        let (y, saved) = forward(&x.detach(), &weight.detach(), settings).unwrap();
        let d_weight = Tensor::zeros([24], FLOAT);
        let gradient = Gradient::alone(&d_weight);
        let dx = backward(&saved, &dy, Some(&gradient)).unwrap();
        for (ours, expected) in [
            (y, expected.detach()),
            (dx, x.grad()),
            (d_weight, weight.grad()),
        ] {
            assert_close(&ours, &expected);
        }
    }
}
