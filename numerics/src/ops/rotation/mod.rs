//! The turn of queries and keys by the angles of their positions (Su et al., 2021), from the rows that a projection gives to the
//! heads that attention takes, and the way back.
//!
//! Angles, cos and sin are fp32. In bf16 a number is rounded once, after the turn: queries and keys that are off by more move a
//! sharp softmax by per cents. Cost: one pass over the numbers, which also lays them out anew.

mod cpu;

use half::bf16;
use tch::{Kind, Tensor};

use super::profile::{Operation, timed};
use super::rope::Rope;
use super::side::Side;
use super::{Error, Result};

/// cos and sin of every position of a pass, each (T, R/2), or (B, T, R/2) where rows have positions of their own.
#[derive(Debug)]
pub struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Rotation {
    /// The angles of `positions` (T) or (B, T), whole numbers, within a sequence of `length` tokens.
    pub fn new(rope: &Rope, positions: &Tensor, length: i64) -> Result<Self> {
        Self::of_frequencies(
            rope,
            positions,
            &Tensor::f_from_slice(&rope.frequencies(length)?)?, // (R/2)
        )
    }

    /// The angles of `positions` (T) or (B, T) whose tokens belong to sequences of these `lengths`, one for each of the B·T
    /// tokens. Each token is turned as if its sequence stood alone.
    pub fn of_sequences(
        rope: &Rope,
        positions: &Tensor,
        lengths: &[i64],
        (batch, length): (i64, i64),
    ) -> Result<Self> {
        let mut distinct: Vec<i64> = lengths
            .iter()
            .map(|length| rope.same_frequencies(*length))
            .collect();
        let of_tokens = distinct.clone();
        distinct.sort_unstable();
        distinct.dedup();
        if let [one] = distinct[..] {
            return Self::new(rope, positions, one);
        }
        let mut table = Vec::new();
        for length in &distinct {
            table.extend(rope.frequencies(*length)?);
        }
        let rows: Vec<i64> = of_tokens
            .iter()
            .map(|length| distinct.partition_point(|other| other < length) as i64)
            .collect();
        let frequencies = Tensor::f_from_slice(&table)?
            .f_view([distinct.len() as i64, -1])?
            .f_index_select(0, &Tensor::f_from_slice(&rows)?)?
            .f_view([batch, length, -1])?; // (B, T, R/2)
        Self::of_frequencies(rope, positions, &frequencies)
    }

    /// Frequencies (R/2) or (B, T, R/2).
    fn of_frequencies(rope: &Rope, positions: &Tensor, frequencies: &Tensor) -> Result<Self> {
        let angles = positions
            .f_to_kind(Kind::Float)?
            .f_unsqueeze(-1)?
            .f_mul(frequencies)?; // (T, R/2) or (B, T, R/2)
        let factor = rope.attention_factor();
        Ok(Self {
            cos: angles.f_cos()?.f_mul_scalar(factor)?,
            sin: angles.f_sin()?.f_mul_scalar(factor)?,
        })
    }

    /// Turns the heads of x (B·T, heads·D): (B, heads, T, D).
    pub fn forward(&self, x: &Tensor, batch: i64, heads: i64) -> Result<Tensor> {
        let (rows, width) = x.size2()?;
        let shape = self.shape(rows, batch, heads, width / heads.max(1))?;
        let side = Side::of(x, "queries or keys")?;
        timed(Operation::Rotation, || match side {
            Side::CpuBrain => cpu::forward::<bf16>(self, x, shape),
            Side::CpuFloat => cpu::forward::<f32>(self, x, shape),
        })
    }

    /// The gradient for x (B·T, heads·D) from that of the turned heads (B, heads, T, D): the turn back.
    pub fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        let (batch, heads, length, head_dim) = dy.size4()?;
        let shape = self.shape(batch * length, batch, heads, head_dim)?;
        let side = Side::of(dy, "queries or keys")?;
        timed(Operation::Rotation, || match side {
            Side::CpuBrain => cpu::backward::<bf16>(self, dy, shape),
            Side::CpuFloat => cpu::backward::<f32>(self, dy, shape),
        })
    }

    /// What is turned, if it fits the angles.
    fn shape(&self, rows: i64, batch: i64, heads: i64, head_dim: i64) -> Result<Shape> {
        let size = self.cos.size();
        let (half, angles) = (size[size.len() - 1], size[size.len() - 2]);
        let length = rows / batch.max(1);
        let of_rows = size.len() == 3;
        if angles != length || (of_rows && size[0] != batch) || 2 * half > head_dim {
            return Err(Error::Shape {
                name: "cos".to_owned(),
                found: size,
                expected: vec![batch, length, head_dim / 2],
            });
        }
        Ok(Shape {
            rows: rows as usize,
            length: length as usize,
            heads: heads as usize,
            head_dim: head_dim as usize,
            of_rows,
        })
    }
}

/// The sizes of what is turned.
#[derive(Clone, Copy)]
struct Shape {
    /// B·T.
    rows: usize,
    /// T.
    length: usize,
    heads: usize,
    /// D.
    head_dim: usize,
    /// Whether each of the B rows has angles of its own.
    of_rows: bool,
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::ops::rope::Scaling;
    use crate::ops::test_support::{assert_close, random};

    /// x (B, heads, T, D) turned by libtorch's operations.
    fn by_automatic_differentiation(rotation: &Rotation, x: &Tensor) -> Tensor {
        let half = rotation.cos.size()[1];
        let (first, second) = (x.narrow(-1, 0, half), x.narrow(-1, half, half));
        let rest = x.narrow(-1, 2 * half, x.size()[3] - 2 * half);
        let (cos, sin) = (&rotation.cos, &rotation.sin);
        let turned = [&first * cos - &second * sin, &second * cos + &first * sin];
        Tensor::cat(&[&turned[0], &turned[1], &rest], -1)
    }

    #[test]
    fn the_backward_of_a_scaled_turn_of_part_of_a_head_equals_automatic_differentiation() {
        let rope = Rope {
            theta: 100.0,
            dimensions: 6,
            scaling: Scaling::Long {
                short: vec![1.0, 1.5, 2.0],
                long: vec![2.0, 3.0, 4.0],
                original_length: 4,
                attention_factor: 1.3,
            },
        };
        let positions = Tensor::arange(5, (Kind::Int64, Device::Cpu));
        let rotation = Rotation::new(&rope, &positions, 5).unwrap();
        let rows = random(&[2 * 5, 3 * 8], 1).set_requires_grad(true);
        let x = rows.view([2, 5, 3, 8]).transpose(1, 2); // (B, heads, T, D)
        let weight = random(&[2, 3, 5, 8], 2);
        let expected = by_automatic_differentiation(&rotation, &x);
        (&expected * &weight).sum(Kind::Float).backward();
        let y = rotation.forward(&rows.detach(), 2, 3).unwrap();
        assert_close(&y, &expected.detach());
        let dx = rotation.backward(&weight).unwrap();
        assert_close(&dx, &rows.grad());
        // What is not turned stays, and the length of what is turned grows by the factor.
        assert!(y.narrow(-1, 6, 2).equal(&x.narrow(-1, 6, 2)));
        let norm = |x: &Tensor| x.narrow(-1, 0, 6).norm().double_value(&[]);
        assert!((norm(&y) / norm(&x) - 1.3).abs() < 1e-5);
    }

    #[test]
    fn tokens_of_sequences_of_several_lengths_are_turned_as_each_alone() {
        let scalings = [
            Scaling::Linear { factor: 2.0 },
            Scaling::Dynamic {
                factor: 2.0,
                original_length: 4,
            },
            Scaling::Long {
                short: vec![1.0, 1.5],
                long: vec![2.0, 4.0],
                original_length: 4,
                attention_factor: 1.2,
            },
        ];
        for scaling in scalings {
            let rope = Rope {
                theta: 100.0,
                dimensions: 4,
                scaling,
            };
            let x = random(&[2, 7, 3 * 4], 1); // (B, T, heads·D)
            // Of row 0 two sequences, 2 and 5 tokens; of row 1 one of 6, and padding.
            let positions =
                Tensor::from_slice2(&[[0_i64, 1, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 0]]);
            let lengths = [2, 2, 5, 5, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6];
            let together = Rotation::of_sequences(&rope, &positions, &lengths, (2, 7)).unwrap();
            let together = together.forward(&x.view([14, 12]), 2, 3).unwrap();
            for (row, start, length) in [(0, 0, 2), (0, 2, 5), (1, 0, 6)] {
                let own = x.narrow(0, row, 1).narrow(1, start, length);
                let own = own.reshape([length, 12]);
                let positions = Tensor::arange(length, (Kind::Int64, Device::Cpu));
                let alone = Rotation::new(&rope, &positions, length).unwrap();
                let together = together.narrow(0, row, 1).narrow(2, start, length);
                assert_close(&together, &alone.forward(&own, 1, 3).unwrap());
            }
        }
    }
}
