//! Linear layers against automatic differentiation, and row blocks against each block alone.

use rstest::rstest;

use super::*;
use crate::ops::cpu::{brgemm, lanes};
use crate::ops::four_bit::Code;
use crate::ops::product::matmul::{FORCED, Multiplier};
use crate::ops::test_support::{FLOAT, assert_close, random};
use crate::ops::trained::Revision;

const INPUT: i64 = 96;

/// Weights (out, in) that are dense, or in 4 bits; and what they stand for.
fn weight(output: i64, seed: u64, in_four_bit: bool, kind: Kind) -> (Weight, Tensor) {
    let value = random(&[output, INPUT], seed);
    if !in_four_bit {
        let value = value.to_kind(kind);
        let dense = Dense {
            value: value.shallow_clone(),
            gradient: None,
        };
        return (Weight::Dense(dense), value.to_kind(Kind::Float));
    }
    let matrix = FourBitMatrix::quantise(&value, Code::Nf4, true).unwrap();
    let mut decoded = Tensor::zeros([output, INPUT], (kind, Device::Cpu));
    matrix.decode_into(&mut decoded).unwrap();
    (Weight::FourBit(matrix), decoded.to_kind(Kind::Float))
}

fn adapter(output: i64, rank: i64, seed: u64) -> LowRank {
    let gradient = |shape: &[i64]| Gradient::alone(&Tensor::zeros(shape, FLOAT));
    LowRank {
        module: format!("module {seed}"),
        a: random(&[rank, INPUT], seed),
        b: random(&[output, rank], seed + 1),
        gradient_a: gradient(&[rank, INPUT]),
        gradient_b: gradient(&[output, rank]),
        scaling: 0.5,
        revision: Revision::default(),
        magnitude: None,
    }
}

fn view(gradient: &Gradient) -> Tensor {
    let sum = Tensor::zeros(gradient.size(), FLOAT);
    gradient.add_to(&sum);
    sum
}

#[rstest]
fn two_layers_with_adapters_equal_automatic_differentiation(
    #[values(3, 61)] rows: i64,
    #[values(false, true)] in_four_bit: bool,
    #[values(3, 16)] rank: i64,
) {
    let outputs = [50, 96];
    let mut layers = Vec::new();
    let mut values = Vec::new();
    for (output, seed) in outputs.into_iter().zip([1, 2]) {
        let (weight, value) = weight(output, seed, in_four_bit, Kind::Float);
        let bias = Dense {
            value: random(&[output], seed + 10),
            gradient: None,
        };
        values.push((value, bias.value.shallow_clone()));
        layers.push(Linear::new(weight, Some(bias)));
    }
    let layers: Vec<&Linear> = layers.iter().collect();
    let adapters = [adapter(outputs[0], rank, 20), adapter(outputs[1], rank, 30)];
    let blocks = [RowBlock {
        rows,
        adapters: adapters.iter().map(Some).collect(),
        dropout: None,
    }];
    let x = random(&[rows, INPUT], 40);
    let mut scratch = Scratch::new(Kind::Float);
    let (ys, saved) = forward(&layers, &x, &blocks, &mut scratch).unwrap();
    let dys = outputs.map(|output| random(&[rows, output], 50 + output as u64));
    let dx = backward(&layers, &x, &dys, &blocks, &saved, &mut scratch).unwrap();

    let x = x.set_requires_grad(true);
    let mut loss = Tensor::zeros([], FLOAT);
    for (((value, bias), adapter), (y, dy)) in values.iter().zip(&adapters).zip(ys.iter().zip(&dys))
    {
        let [a, b] = [&adapter.a, &adapter.b].map(|factor| factor.detach().set_requires_grad(true));
        let expected = x.mm(&value.tr()) + x.mm(&a.tr()).mm(&b.tr()) * adapter.scaling + bias;
        assert_close(y, &expected.detach());
        let own = (&expected * dy).sum(Kind::Float);
        own.backward();
        assert_close(&view(&adapter.gradient_a), &a.grad());
        assert_close(&view(&adapter.gradient_b), &b.grad());
        loss += own.detach();
    }
    assert_close(&dx, &x.grad());
}

/// Whether these tests' products are now by this one; not where it cannot.
fn are_by(multiplier: Multiplier, kind: Kind) -> bool {
    let can = match multiplier {
        Multiplier::Own => lanes::are_wide(),
        Multiplier::Kernel => kind == Kind::BFloat16 && brgemm::is_usable(),
        Multiplier::Libtorch => true,
    };
    FORCED.set(can.then_some(multiplier));
    can
}

#[rstest]
fn whoever_multiplies_results_are_those_of_fp32_but_for_their_rounding(
    #[values(Multiplier::Own, Multiplier::Kernel, Multiplier::Libtorch)] multiplier: Multiplier,
    #[values(false, true)] in_four_bit: bool,
) {
    if !are_by(multiplier, Kind::BFloat16) {
        return;
    }
    let (weight, value) = weight(160, 1, in_four_bit, Kind::BFloat16);
    let layer = Linear::new(weight, None);
    let adapter = adapter(160, 4, 2);
    let blocks = [RowBlock {
        rows: 45,
        adapters: vec![Some(&adapter)],
        dropout: None,
    }];
    let brain = |shape: &[i64], seed| random(shape, seed).to_kind(Kind::BFloat16);
    let (x, dy) = (brain(&[45, INPUT], 5), brain(&[45, 160], 6));
    let mut scratch = Scratch::new(Kind::BFloat16);
    let (ys, saved) = forward(&[&layer], &x, &blocks, &mut scratch).unwrap();
    let dys = [dy.shallow_clone()];
    let dx = backward(&[&layer], &x, &dys, &blocks, &saved, &mut scratch).unwrap();
    let around = brain(&[45, 160], 7);
    let (onto, _) = forward_onto(&layer, &x, &blocks, &around, &mut scratch).unwrap();

    let [x, dy, around] = [x, dy, around].map(|rows| rows.to_kind(Kind::Float));
    let whole = value + adapter.b.mm(&adapter.a) * adapter.scaling;
    let y = x.mm(&whole.tr());
    for (found, exact) in [(&ys[0], &y), (&dx, &dy.mm(&whole)), (&onto, &(&y + around))] {
        let off = (found.to_kind(Kind::Float) - exact)
            .norm()
            .double_value(&[]);
        let size = exact.norm().double_value(&[]);
        assert!(off < 0.004 * size, "{off} of {size}");
    }
}

#[rstest]
fn each_block_of_rows_is_computed_as_if_it_stood_alone(
    #[values(Kind::Float, Kind::BFloat16)] kind: Kind,
    #[values(Multiplier::Own, Multiplier::Kernel, Multiplier::Libtorch)] multiplier: Multiplier,
    #[values(false, true)] in_four_bit: bool,
) {
    if !are_by(multiplier, kind) {
        return;
    }
    let (weight, _) = weight(96, 1, in_four_bit, kind);
    let layer = Linear::new(weight, None);
    let adapters = [adapter(96, 4, 2), adapter(96, 16, 3)];
    let of = |rows, adapter| RowBlock {
        rows,
        adapters: vec![adapter],
        dropout: None,
    };
    let blocks = [
        of(50, Some(&adapters[0])),
        of(7, None),
        of(64, Some(&adapters[1])),
    ];
    let x = random(&[121, INPUT], 5).to_kind(kind);
    let dy = random(&[121, 96], 6).to_kind(kind);
    let mut scratch = Scratch::new(kind);
    let (ys, saved) = forward(&[&layer], &x, &blocks, &mut scratch).unwrap();
    let dys = [dy.shallow_clone()];
    let dx = backward(&[&layer], &x, &dys, &blocks, &saved, &mut scratch).unwrap();
    let together = adapters.each_ref().map(|adapter| view(&adapter.gradient_a));

    let mut start = 0;
    for block in blocks {
        let rows = |tensor: &Tensor| tensor.narrow(0, start, block.rows).contiguous();
        let (x, dys) = (rows(&x), [rows(&dy)]);
        let alone = [block.clone()];
        let (own, saved) = forward(&[&layer], &x, &alone, &mut scratch).unwrap();
        assert_close(
            &rows(&ys[0]).to_kind(Kind::Float),
            &own[0].to_kind(Kind::Float),
        );
        let own = backward(&[&layer], &x, &dys, &alone, &saved, &mut scratch).unwrap();
        assert_close(&rows(&dx).to_kind(Kind::Float), &own.to_kind(Kind::Float));
        start += block.rows;
    }
    for (adapter, together) in adapters.iter().zip(together) {
        // Added a second time.
        assert_close(&view(&adapter.gradient_a), &(together * 2.0));
    }
}

#[test]
fn in_bfloat16_what_an_adapter_adds_is_not_rounded_before_it_is_summed() {
    // Numbers of bfloat16 next to 1 are 2^-7 apart. Base and adapter together give 1 + 2^-7; the base's part alone is 1 + 2^-8, which is
    // rounded to 1, and 1 + 2^-8 again so.
    let value = Tensor::ones([1, INPUT], (Kind::BFloat16, Device::Cpu));
    let step = 2.0_f64.powi(-8);
    let layer = Linear::new(
        Weight::Dense(Dense {
            value,
            gradient: None,
        }),
        None,
    );
    let mut adapter = adapter(1, 1, 1);
    adapter.a = Tensor::full([1, INPUT], 1.0, FLOAT);
    adapter.b = Tensor::full([1, 1], step / adapter.scaling, FLOAT);
    let mut x = vec![0.0; INPUT as usize];
    (x[0], x[1]) = (1.0, step as f32);
    let x = Tensor::from_slice(&x)
        .view([1, INPUT])
        .to_kind(Kind::BFloat16);
    let block = RowBlock {
        rows: 1,
        adapters: vec![Some(&adapter)],
        dropout: None,
    };
    let mut scratch = Scratch::new(Kind::BFloat16);
    let (ys, _) = forward(&[&layer], &x, &[block], &mut scratch).unwrap();
    assert!((ys[0].double_value(&[0, 0]) - (1.0 + 2.0 * step)).abs() < 1e-6);
}

#[test]
fn an_adapter_of_two_blocks_has_the_gradients_of_both() {
    let (weight, _) = weight(96, 1, true, Kind::Float);
    let layer = Linear::new(weight, None);
    let gradients = |parts: &[i64]| {
        let adapter = adapter(96, 4, 2);
        let block = |rows: &i64| RowBlock {
            rows: *rows,
            adapters: vec![Some(&adapter)],
            dropout: None,
        };
        let blocks: Vec<_> = parts.iter().map(block).collect();
        let (x, dy) = (random(&[700, INPUT], 5), random(&[700, 96], 6));
        let mut scratch = Scratch::new(Kind::Float);
        let (_, saved) = forward(&[&layer], &x, &blocks, &mut scratch).unwrap();
        let _ = backward(&[&layer], &x, &[dy], &blocks, &saved, &mut scratch).unwrap();
        [&adapter.gradient_a, &adapter.gradient_b].map(view)
    };
    let whole = gradients(&[700]);
    for (parts, whole) in gradients(&[300, 400]).iter().zip(&whole) {
        assert_close(parts, whole);
    }
}

#[test]
fn an_adapter_for_another_weight_is_refused() {
    let (weight, _) = weight(96, 1, false, Kind::Float);
    let layer = Linear::new(weight, None);
    let other = adapter(50, 4, 2);
    let block = RowBlock {
        rows: 3,
        adapters: vec![Some(&other)],
        dropout: None,
    };
    let x = random(&[3, INPUT], 5);
    let found = forward(&[&layer], &x, &[block], &mut Scratch::new(Kind::Float));
    let error = found.unwrap_err().to_string();
    assert!(error.contains("expected r x 96 and 96 x r"), "{error}");
}
