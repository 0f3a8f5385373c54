//! NF4 and FP4 against bitsandbytes: codes, scales, codes of scales and values to the bit; a whole model on it.

use finetune_numerics::model::{LoadOptions, Storage};
use finetune_numerics::ops::four_bit::{Code, FourBitMatrix, Scales, dynamic_map};
use rstest::rstest;
use tch::{Device, Kind, Tensor};

use crate::expected::{MISTAKE, expected};
use crate::fixture::{
    adapter, assert_close, assert_equal, assert_near, base, batch, scalar, tensors, trained,
    weights,
};
use crate::tolerance::SINGLE;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn expected_bits(tensor: &Tensor) -> Vec<u32> {
    bits(&Vec::<f32>::try_from(tensor.reshape([-1]).to_kind(Kind::Float)).unwrap())
}

fn decoded(matrix: &FourBitMatrix, kind: Kind) -> Tensor {
    let (rows, columns) = matrix.shape();
    let mut dense = Tensor::zeros([rows, columns], (kind, Device::Cpu));
    matrix.decode_into(&mut dense).unwrap();
    dense
}

#[rstest]
#[case("nf4", Code::Nf4)]
#[case("fp4", Code::Fp4)]
fn tables_equal_those_of_bitsandbytes(#[case] name: &str, #[case] code: Code) {
    let expected = tensors(&format!("expected/{name}.safetensors"));
    assert_eq!(bits(code.values()), expected_bits(&expected["code"]));
    assert_eq!(bits(&code.bounds()), expected_bits(&expected["bounds"]));
    let order = Vec::<i64>::try_from(&expected["order"]).unwrap();
    assert_eq!(code.order().map(i64::from).to_vec(), order);
}

#[test]
fn the_map_of_quantised_scales_is_that_of_bitsandbytes() {
    let expected = &tensors("expected/nf4.safetensors")["dynamic_map"];
    // The last bit of libtorch's linspace depends on the width of the processor's registers.
    let map = Tensor::from_slice(&dynamic_map());
    let off = ((map - expected).abs() / (expected.abs() + 1e-30)).max();
    assert!(off.double_value(&[]) < 2.4e-7, "{off:?}");
}

#[rstest]
#[case("nf4", Code::Nf4, "fp32")]
#[case("nf4", Code::Nf4, "bf16")]
#[case("nf4", Code::Nf4, "layer_bf16")]
#[case("nf4", Code::Nf4, "edges")]
#[case("nf4", Code::Nf4, "partial")]
#[case("fp4", Code::Fp4, "fp32")]
#[case("fp4", Code::Fp4, "bf16")]
#[case("fp4", Code::Fp4, "edges")]
#[case("fp4", Code::Fp4, "partial")]
fn codes_scales_and_values_equal_bitsandbytes_to_the_bit(
    #[case] name: &str,
    #[case] code: Code,
    #[case] case: &str,
) {
    let expected = tensors(&format!("expected/{name}.safetensors"));
    let of = |name: &str| &expected[&format!("{case}.{name}")];
    let input = of("input");
    let matrix = FourBitMatrix::quantise(input, code, false).unwrap();
    assert_equal("codes", matrix.codes(), of("codes"));
    let scales: Vec<f32> = matrix.scales().to_vec();
    assert_eq!(bits(&scales), expected_bits(of("absmax")));
    assert_eq!(
        expected_bits(&decoded(&matrix, input.kind())),
        expected_bits(of("dequantised"))
    );
}

/// What follows from the codes is exact but for the last bit.
#[rstest]
#[case("fp32")]
#[case("bf16")]
#[case("layer_bf16")]
#[case("edges")]
#[case("partial")]
fn double_quantised_scales_have_the_codes_of_bitsandbytes(#[case] case: &str) {
    let expected = tensors("expected/nf4.safetensors");
    let of = |name: &str| &expected[&format!("{case}.{name}")];
    let input = of("input");
    let matrix = FourBitMatrix::quantise(input, Code::Nf4, true).unwrap();
    assert_equal("codes", matrix.codes(), of("codes"));
    let Scales::Double {
        codes,
        nested,
        offset,
        ..
    } = matrix.scales()
    else {
        panic!("the scales are not quantised")
    };
    // The mean is a sum, whose order depends on the processor.
    let right = of("double.offset").double_value(&[0]);
    assert_near("offset", f64::from(*offset), right, SINGLE);
    let nested = Tensor::from_slice(nested);
    assert_close("nested", &nested, of("double.nested_absmax"), SINGLE);
    assert_equal("codes of scales", codes, of("double.absmax_codes"));

    let theirs = Vec::<u8>::try_from(of("double.absmax_codes")).unwrap();
    let given = Scales::Double {
        codes: theirs,
        nested: Vec::<f32>::try_from(of("double.nested_absmax")).unwrap(),
        offset: of("double.offset").double_value(&[0]) as f32,
        map: Box::new(dynamic_map()),
    };
    let scales: Vec<f32> = given.to_vec();
    assert_close(
        "scales",
        &Tensor::from_slice(&scales),
        of("double.absmax"),
        2e-7,
    );

    // The values follow from the scales as they do without double quantisation, where they are compared to the bit.
    let values = Vec::<f32>::try_from(decoded(&matrix, Kind::Float).reshape([-1])).unwrap();
    let scales: Vec<f32> = matrix.scales().to_vec();
    for (index, value) in values.iter().enumerate() {
        let byte = matrix.codes()[index / 2];
        let code = if index % 2 == 0 {
            byte >> 4
        } else {
            byte & 0xf
        };
        assert_eq!(
            *value,
            Code::Nf4.values()[usize::from(code)] * scales[index / 64],
            "value {index}"
        );
    }
}

#[rstest]
#[case("nf4", Code::Nf4, "plain", false)]
#[case("nf4", Code::Nf4, "double", true)]
#[case("fp4", Code::Fp4, "plain", false)]
fn adapter_on_a_4_bit_base_equals_the_reference(
    #[case] file: &str,
    #[case] code: Code,
    #[case] kind: &str,
    #[case] double_quantization: bool,
) {
    let name = "tiny-llama-64";
    let expected = expected(&format!("expected/{file}-lora-{name}.safetensors"));
    let base = base(
        name,
        Kind::Float,
        Storage::FourBit {
            code,
            double_quantization,
        },
    );
    let lora = adapter(name, name);
    let batch = batch(&expected["tokens"], &expected["labels"]);
    let tokens = trained(&batch);
    let sum = base
        .loss_and_gradient(Some(&lora), &batch, 1.0 / tokens, None)
        .unwrap()
        .read()
        .unwrap();
    expected.assert_near(&format!("{kind}.loss"), sum.loss / tokens);
    expected.assert_gradients(lora.parameters(), &format!("{kind}.grad."));
    if kind == "plain" {
        let logits = base.logits(Some(&lora), &batch.tokens).unwrap();
        expected.assert_close("plain.logits", &logits);
        let states = base.hidden_states(Some(&lora), &batch.tokens).unwrap();
        for layer in [1, 2] {
            expected.assert_close(&format!("plain.hidden.{layer}"), &states[layer]);
        }
    }
    // Without 4 bits the loss is another one, or this would show nothing.
    let dense = finetune_numerics::model::Base::load(
        base.config(),
        &weights(name),
        &LoadOptions {
            compute: Kind::Float,
            storage: Storage::Frozen,
        },
    );
    let dense = dense
        .unwrap()
        .loss(Some(&lora), &batch, None)
        .unwrap()
        .read()
        .unwrap()
        .loss
        / tokens;
    assert!((dense / scalar(&expected, "plain.loss") - 1.0).abs() > MISTAKE / 10.0);
}

#[test]
fn weights_of_the_model_have_the_codes_of_bitsandbytes() {
    let expected = tensors("expected/nf4-lora-tiny-llama-64.safetensors");
    let weights = weights("tiny-llama-64");
    let mut seen = 0;
    for (key, codes) in &expected {
        if let Some(name) = key.strip_prefix("codes.") {
            let matrix = FourBitMatrix::quantise(&weights[name], Code::Nf4, true).unwrap();
            assert_equal(name, matrix.codes(), codes);
            let Scales::Double { codes, .. } = matrix.scales() else {
                panic!("the scales are not quantised")
            };
            let theirs =
                Vec::<u8>::try_from(&expected[&format!("double.absmax_codes.{name}")]).unwrap();
            assert!(*codes == theirs, "{name}");
            seen += 1;
        }
    }
    assert_eq!(seen, 14);
}
