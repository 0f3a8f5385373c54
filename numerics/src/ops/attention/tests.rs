//! The attention against libtorch's automatic differentiation of its formula, and documents against each other.

use tch::{Device, Kind};

use rstest::rstest;

use super::*;
use crate::ops::random::Draw;
use crate::ops::test_support::{FLOAT, assert_close, random};

/// Head by head, with libtorch's automatic differentiation.
fn reference(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    settings: AttentionSettings,
) -> Tensor {
    let (batch, key_heads, groups, length, head_dim) = queries.size5().unwrap();
    let seen = keys.size()[2];
    let all = Tensor::ones([length, seen], (Kind::Bool, Device::Cpu));
    let mut hidden = all.triu(seen - length + 1);
    if let Some(window) = settings.window {
        hidden = hidden.logical_or(&all.tril(seen - length - window));
    }
    let mut scores = queries.matmul(&keys.unsqueeze(2).transpose(-1, -2)) * settings.scale;
    if let Some(cap) = settings.soft_cap {
        scores = (scores / cap).tanh() * cap;
    }
    let weights = scores
        .masked_fill(&hidden, f64::NEG_INFINITY)
        .softmax(-1, Kind::Float);
    let weights = match settings.dropout {
        None => weights,
        Some(dropout) => {
            // Of ones it is the mask itself.
            let rows = [weights.numel() as i64 / seen, seen];
            let ones = Tensor::ones(rows, FLOAT);
            &weights * dropout.apply(&ones).unwrap().view_as(&scores)
        }
    };
    let output = weights.matmul(&values.unsqueeze(2)); // (B, K, G, T, D)
    output
        .permute([0, 3, 1, 2, 4])
        .reshape([batch * length, key_heads * groups * head_dim])
}

const PLAIN: AttentionSettings = AttentionSettings {
    scale: 0.5,
    soft_cap: None,
    window: None,
    dropout: None,
};

const CAPPED: AttentionSettings = AttentionSettings {
    soft_cap: Some(0.7),
    ..PLAIN
};

const fn with_window(window: i64) -> AttentionSettings {
    AttentionSettings {
        window: Some(window),
        ..PLAIN
    }
}

fn with_dropout(settings: AttentionSettings) -> AttentionSettings {
    let draw = Draw {
        seed: 1,
        step: 2,
        micro_batch: 3,
    };
    let dropout = Dropout {
        rate: 0.3,
        key: draw.key("attention"),
    };
    AttentionSettings {
        dropout: Some(dropout),
        ..settings
    }
}

#[rstest]
fn equals_automatic_differentiation(
    // Too few for a block, one block, whole blocks, and a last block of a part.
    #[values(3, 17, 128, 150)] length: i64,
    #[values(4, 40)] head_dim: i64,
    #[values(
        PLAIN,
        CAPPED,
        with_window(5),
        with_window(17),
        with_window(100),
        AttentionSettings { window: Some(2), scale: 1.3, ..CAPPED },
        with_dropout(PLAIN),
        with_dropout(CAPPED)
    )]
    settings: AttentionSettings,
) {
    let traced = |shape: &[i64], seed| random(shape, seed).set_requires_grad(true);
    let queries = traced(&[2, 2, 3, length, head_dim], 1);
    let [keys, values] = [2, 3].map(|seed| traced(&[2, 2, length, head_dim], seed));
    let expected = reference(&queries, &keys, &values, settings);
    let weight = random(&expected.size(), 4);
    (&expected * &weight).sum(Kind::Float).backward();

    let inputs = (queries.detach(), keys.detach(), values.detach());
    let (output, saved) = forward(inputs.0, inputs.1, inputs.2, settings, None).unwrap();
    assert_close(&output, &expected.detach());
    let gradients = backward(&saved, &weight).unwrap();
    assert_close(&gradients.queries, &queries.grad());
    assert_close(&gradients.keys, &keys.grad());
    let d_values = gradients.values.view([2, length, 2, head_dim]);
    assert_close(&d_values.transpose(1, 2), &values.grad());
}

#[rstest]
fn queries_after_a_cache_see_the_keys_before_them(
    #[values(1, 2, 20, 70)] length: i64,
    #[values(PLAIN, CAPPED, with_window(3), with_window(80))] settings: AttentionSettings,
) {
    const SEEN: i64 = 150;
    let queries = random(&[1, 2, 2, length, 4], 1);
    // As a cache lends them: the first of the tokens that it has room for.
    let [keys, values] = [2, 3].map(|seed| random(&[1, 2, SEEN + 42, 4], seed).narrow(2, 0, SEEN));
    let expected = reference(&queries, &keys, &values, settings);
    let (output, _) = forward(queries, keys, values, settings, None).unwrap();
    assert_close(&output, &expected);
}

#[test]
fn in_bfloat16_it_is_that_of_fp32_but_for_the_rounding_of_its_results() {
    let brain = |shape: &[i64], seed| random(shape, seed).to_kind(Kind::BFloat16);
    let inputs = || {
        let of_keys = [2, 3].map(|seed| brain(&[1, 2, 100, 16], seed));
        let [keys, values] = of_keys;
        [brain(&[1, 2, 3, 100, 16], 1), keys, values]
    };
    let d_output = brain(&[100, 2 * 3 * 16], 4);
    let of = |kind: Kind| {
        let [queries, keys, values] = inputs().map(|x| x.to_kind(kind));
        let (output, saved) = forward(queries, keys, values, CAPPED, None).unwrap();
        let gradients = backward(&saved, &d_output.to_kind(kind)).unwrap();
        let AttentionGradients {
            queries,
            keys,
            values,
        } = gradients;
        [output, queries, keys, values].map(|x| x.to_kind(Kind::Float))
    };
    for (ours, exact) in of(Kind::BFloat16).iter().zip(of(Kind::Float)) {
        let off = (ours - &exact).norm().double_value(&[]);
        let size = exact.norm().double_value(&[]);
        assert!(off < 0.005 * size, "{off} of {size}");
    }
}

/// The output of two rows of documents, and the gradients of its product with fixed random numbers.
fn of_documents([queries, keys, values]: [Tensor; 3], documents: &[Vec<i64>]) -> [Tensor; 4] {
    let settings = with_dropout(AttentionSettings {
        window: Some(3),
        ..CAPPED
    });
    let (output, saved) = forward(queries, keys, values, settings, Some(documents)).unwrap();
    let gradients = backward(&saved, &random(&output.size(), 4)).unwrap();
    [output, gradients.queries, gradients.keys, gradients.values]
}

fn inputs(length: i64) -> [Tensor; 3] {
    [
        random(&[2, 2, 3, length, 4], 1),
        random(&[2, 2, length, 4], 2),
        random(&[2, 2, length, 4], 3),
    ]
}

/// The tokens of one row of the batch, from `start` on, of output or gradients.
fn tokens(found: &[Tensor; 4], length: i64, row: i64, start: i64, count: i64) -> [Tensor; 4] {
    let [output, queries, keys, values] = found;
    let of_heads = |x: &Tensor, axis: i64| x.narrow(0, row, 1).narrow(axis, start, count);
    [
        output.narrow(0, row * length + start, count),
        of_heads(queries, 3),
        of_heads(keys, 2),
        values.narrow(0, row * length + start, count),
    ]
}

#[rstest]
#[case::short(9, [4, 5], [3, 2])]
#[case::of_several_blocks(200, [70, 130], [65, 20])]
fn a_document_neither_sees_another_nor_moves_its_gradients(
    #[case] length: i64,
    #[case] first_row: [i64; 2],
    #[case] second_row: [i64; 2],
) {
    let documents = [first_row.to_vec(), second_row.to_vec()];
    let before = of_documents(inputs(length), &documents);
    let changed = inputs(length);
    let [first, second] = first_row;
    // The second document of the first row.
    for (tensor, axis) in changed.iter().zip([3, 2, 2]) {
        let mut part = tensor.narrow(0, 0, 1).narrow(axis, first, second);
        let _ = part.f_add_scalar_(1.0).unwrap();
    }
    let after = of_documents(changed, &documents);
    let kept = |found| {
        let [row, other] = [
            tokens(found, length, 0, 0, first),
            tokens(found, length, 1, 0, length),
        ];
        row.into_iter().chain(other).collect::<Vec<_>>()
    };
    for (before, after) in kept(&before).iter().zip(kept(&after)) {
        assert!(before.equal(&after));
    }
    for (before, after) in before.iter().zip(&after) {
        assert!(!before.equal(after));
    }
}

#[test]
fn a_document_has_the_same_result_to_the_bit_wherever_it_lies() {
    let [queries, keys, values] = inputs(200);
    let settings = with_window(90);
    let at = |x: &Tensor, axis: i64| x.narrow(0, 0, 1).narrow(axis, 70, 130).contiguous();
    let d_output = random(&[400, 24], 4);
    let alone = [at(&queries, 3), at(&keys, 2), at(&values, 2)];
    let [alone_queries, alone_keys, alone_values] = alone;
    let (alone, saved) = forward(alone_queries, alone_keys, alone_values, settings, None).unwrap();
    let of_alone = backward(&saved, &d_output.narrow(0, 70, 130)).unwrap();
    let documents = [vec![70, 130], vec![200]];
    let (beside, saved) = forward(queries, keys, values, settings, Some(&documents)).unwrap();
    let of_beside = backward(&saved, &d_output).unwrap();
    assert!(alone.equal(&beside.narrow(0, 70, 130)));
    assert!(of_alone.queries.equal(&at(&of_beside.queries, 3)));
    assert!(of_alone.keys.equal(&at(&of_beside.keys, 2)));
    let values = of_beside.values.narrow(0, 70, 130);
    assert!(of_alone.values.equal(&values));
}

#[test]
fn padding_gets_zeros() {
    let found = of_documents(inputs(9), &[vec![4, 5], vec![3, 2]]);
    for padding in tokens(&found, 9, 1, 5, 4) {
        assert!(padding.equal(&padding.zeros_like()));
    }
}

#[rstest]
#[case::of_more_tokens_than_the_row(&[vec![4, 6], vec![9]], "documents of 10 tokens in row 0")]
#[case::of_fewer_rows_than_the_batch(&[vec![9]], "documents of 9 tokens in row 0 of 1")]
fn documents_that_do_not_fit_the_rows_are_refused(
    #[case] documents: &[Vec<i64>],
    #[case] expected: &str,
) {
    let [queries, keys, values] = inputs(9);
    let error = forward(queries, keys, values, PLAIN, Some(documents)).unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
}
