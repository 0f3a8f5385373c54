//! Bases that bitsandbytes saved in 4 bits: what `quantization_config` says, and the parts of a matrix in the files.
//!
//! A matrix `x.weight` lies there as its codes under that name, its scales as `x.weight.absmax`, with double quantisation
//! scales of scales as `x.weight.nested_absmax`, tables of what codes stand for, and a small JSON object with the rest.
//! Matrices are taken over as they are: nothing here makes a dense one.

use std::fmt;
use std::path::Path;

use finetune_artifacts::safetensors_file::{Dtype, TensorView};
use finetune_crds::fine_tune_job::{Quantization, QuantizationType};
use finetune_numerics::ops::four_bit::{
    BLOCK, Code, FourBitMatrix, NESTED_BLOCK, Scales, check_parts,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::Error;

/// The key of `config.json`.
pub(super) const KEY: &str = "quantization_config";

/// Keys within it that do not change how a matrix that is in 4 bits is read. Which ones are, the files themselves say.
const WITHOUT_EFFECT: [&str; 8] = [
    "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_storage",
    "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_has_fp16_weight",
    "llm_int8_skip_modules",
    "llm_int8_threshold",
    "_load_in_4bit",
    "_load_in_8bit",
];

/// Between the name of a matrix and that of its code, in the name of the JSON object.
const STATE: &str = ".quant_state.bitsandbytes__";
/// What a matrix in 4 bits has beside its codes and the JSON object.
const PARTS: [&str; 4] = [
    ".absmax",
    ".quant_map",
    ".nested_absmax",
    ".nested_quant_map",
];

/// How a base is saved in 4 bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BaseQuantization {
    /// The code.
    pub code: Code,
    /// Whether the scales are quantised too.
    pub double_quantization: bool,
}

impl From<&Quantization> for BaseQuantization {
    fn from(quantization: &Quantization) -> Self {
        Self {
            code: match quantization.type_ {
                QuantizationType::NF4 => Code::Nf4,
                QuantizationType::FP4 => Code::Fp4,
            },
            double_quantization: quantization.double_quantization,
        }
    }
}

impl fmt::Display for BaseQuantization {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = if self.double_quantization {
            "with"
        } else {
            "without"
        };
        write!(formatter, "{} {with} double quantisation", self.code)
    }
}

/// Reads what the `config.json` at `path` says; `None` for a dense base.
pub(super) fn read(path: &Path) -> Result<Option<BaseQuantization>, Error> {
    let origin = || path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| Error::invalid(origin(), error.to_string()))?;
    let keys: Map<String, Value> = serde_json::from_slice(&bytes)
        .map_err(|error| Error::invalid(origin(), error.to_string()))?;
    match keys.get(KEY) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => parse(value)
            .map(Some)
            .map_err(|message| Error::invalid(origin(), format!("key `{KEY}`: {message}"))),
    }
}

fn parse(value: &Value) -> Result<BaseQuantization, String> {
    let Value::Object(keys) = value else {
        return Err(format!("it is {value}, expected an object"));
    };
    let cure =
        "take the base as it was before, which is quantised as it is loaded with method qlora";
    let method = keys.get("quant_method").unwrap_or(&Value::Null);
    if method != "bitsandbytes" {
        return Err(format!(
            "its `quant_method` is {method}, expected \"bitsandbytes\" with `load_in_4bit`: {cure}"
        ));
    }
    let flag = |key: &str| match keys.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => Err(format!("its `{key}` is {other}, expected true or false")),
    };
    if flag("load_in_8bit")? || !flag("load_in_4bit")? {
        return Err(format!(
            "it does not have `load_in_4bit: true` alone, and 8 bits are not supported: {cure}"
        ));
    }
    let code = match keys.get("bnb_4bit_quant_type") {
        Some(Value::String(name)) if name == "nf4" => Code::Nf4,
        Some(Value::String(name)) if name == "fp4" => Code::Fp4,
        // What bitsandbytes takes where nothing is said.
        None => Code::Fp4,
        Some(other) => {
            return Err(format!(
                "its `bnb_4bit_quant_type` is {other}, expected \"nf4\" or \"fp4\""
            ));
        }
    };
    let double_quantization = flag("bnb_4bit_use_double_quant")?;
    let read = [
        "quant_method",
        "load_in_4bit",
        "load_in_8bit",
        "bnb_4bit_quant_type",
        "bnb_4bit_use_double_quant",
    ];
    let known = |key: &str| read.contains(&key) || WITHOUT_EFFECT.contains(&key);
    if let Some(key) = keys.keys().find(|key| !known(key)) {
        return Err(format!(
            "this trainer does not know its key `{key}`, and it could change the model; remove it if it does not"
        ));
    }
    Ok(BaseQuantization {
        code,
        double_quantization,
    })
}

/// The matrix whose JSON object is called `name`, if it is such a name.
pub(super) fn matrix_of(name: &str) -> Option<&str> {
    name.split_once(STATE).map(|(matrix, _)| matrix)
}

/// The matrix to which the tensor called `name` belongs as a part, if it has such a name.
pub(super) fn owner_of(name: &str) -> Option<&str> {
    PARTS
        .iter()
        .find_map(|part| name.strip_suffix(part))
        .or_else(|| matrix_of(name))
}

/// The rest of what there is to know of a matrix.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    quant_type: String,
    blocksize: usize,
    shape: Vec<i64>,
    /// The type that the weights once had. Values are computed in fp32 and rounded to the type of the activations.
    #[serde(rename = "dtype")]
    _dtype: IgnoredAny,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
    #[serde(rename = "nested_dtype")]
    _nested_dtype: Option<IgnoredAny>,
}

/// A matrix in 4 bits as it lies in the files, checked whole.
pub(super) struct StoredMatrix<'file> {
    shape: (i64, i64),
    code: Code,
    codes: &'file [u8],
    absmax: TensorView<'file>,
    nested: Option<Nested>,
}

struct Nested {
    absmax: Vec<f32>,
    offset: f32,
    map: Box<[f32; 256]>,
}

impl<'file> StoredMatrix<'file> {
    /// Finds the parts of the matrix `name` of a base that is saved as `quantization`, by `part`, which lends a tensor of
    /// the files, and checks them.
    pub(super) fn find(
        name: &str,
        quantization: BaseQuantization,
        part: impl Fn(&str) -> Result<TensorView<'file>, String>,
    ) -> Result<Self, String> {
        let code = quantization.code;
        let state_name = format!("{name}{STATE}{}", code.name().to_lowercase());
        let state: State = serde_json::from_slice(part(&state_name)?.bytes)
            .map_err(|error| format!("`{state_name}`: {error}"))?;
        if !state.quant_type.eq_ignore_ascii_case(code.name()) {
            return Err(format!(
                "`{state_name}` says `{}`, expected what its name says",
                state.quant_type
            ));
        }
        let &[rows, columns] = state.shape.as_slice() else {
            return Err(format!(
                "its shape is {:?}, expected two dimensions",
                state.shape
            ));
        };
        if state.blocksize != BLOCK {
            return Err(format!(
                "its blocks have {} values, expected {BLOCK}: quantise the base again",
                state.blocksize
            ));
        }
        let map = floats(&part, &format!("{name}.quant_map"))?;
        let close = |(found, expected): (&f32, &f32)| (found - expected).abs() <= 1e-6;
        if map.len() != 16 || !map.iter().zip(code.values()).all(close) {
            return Err(format!("its `quant_map` is not that of {code}"));
        }
        let absmax = part(&format!("{name}.absmax"))?;
        let nested = match (state.nested_blocksize, state.nested_offset) {
            (None, None) => None,
            (Some(NESTED_BLOCK), Some(offset)) => Some(Nested {
                absmax: floats(&part, &format!("{name}.nested_absmax"))?,
                offset,
                map: floats(&part, &format!("{name}.nested_quant_map"))?
                    .try_into()
                    .map_err(|map: Vec<f32>| {
                        format!(
                            "its `nested_quant_map` has {} values, expected 256",
                            map.len()
                        )
                    })?,
            }),
            (size, _) => {
                return Err(format!(
                    "its scales lie in blocks of {size:?}, expected {NESTED_BLOCK} and an offset"
                ));
            }
        };
        if nested.is_some() != quantization.double_quantization {
            return Err(format!(
                "its scales are not as config.json says, {quantization}"
            ));
        }
        let codes = part(name)?.bytes;
        let matrix = Self {
            shape: (rows, columns),
            code,
            codes,
            absmax,
            nested,
        };
        check_parts(matrix.shape, codes.len(), &matrix.scales()?)?;
        Ok(matrix)
    }

    /// (out, in).
    pub(super) const fn shape(&self) -> (i64, i64) {
        self.shape
    }

    /// The matrix, its bytes as they are.
    pub(super) fn matrix(&self) -> Result<FourBitMatrix, String> {
        FourBitMatrix::from_parts(self.shape, self.code, self.codes.to_vec(), self.scales()?)
    }

    fn scales(&self) -> Result<Scales, String> {
        let wrong = |expected: Dtype| {
            format!(
                "its `absmax` has type {:?}, expected {expected:?}",
                self.absmax.dtype
            )
        };
        Ok(match &self.nested {
            None => {
                let scales = self.absmax.to_f32().ok_or_else(|| wrong(Dtype::F32))?;
                all_finite(&scales, "absmax")?;
                Scales::Plain(scales)
            }
            Some(nested) => {
                if self.absmax.dtype != Dtype::U8 {
                    return Err(wrong(Dtype::U8));
                }
                Scales::Double {
                    codes: self.absmax.bytes.to_vec(),
                    nested: nested.absmax.clone(),
                    offset: nested.offset,
                    map: nested.map.clone(),
                }
            }
        })
    }
}

fn floats<'file>(
    part: &impl Fn(&str) -> Result<TensorView<'file>, String>,
    name: &str,
) -> Result<Vec<f32>, String> {
    let tensor = part(name)?;
    let values = tensor
        .to_f32()
        .ok_or_else(|| format!("`{name}` has type {:?}, expected F32", tensor.dtype))?;
    all_finite(&values, name)?;
    Ok(values)
}

fn all_finite(values: &[f32], name: &str) -> Result<(), String> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(at) => Err(format!(
            "`{name}` is {} at element {at}, expected a number: the file is damaged",
            values[at]
        )),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn saved() -> Value {
        json!({
            "_load_in_4bit": true, "_load_in_8bit": false, "bnb_4bit_compute_dtype": "bfloat16",
            "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true,
            "llm_int8_enable_fp32_cpu_offload": false, "llm_int8_has_fp16_weight": false,
            "llm_int8_skip_modules": ["lm_head"], "llm_int8_threshold": 6.0, "load_in_4bit": true,
            "load_in_8bit": false, "quant_method": "bitsandbytes",
        })
    }

    #[test]
    fn what_transformers_writes_is_read() {
        let found = parse(&saved()).unwrap();
        assert_eq!(found.to_string(), "NF4 with double quantisation");
        let least = json!({ "quant_method": "bitsandbytes", "load_in_4bit": true });
        let found = parse(&least).unwrap();
        assert_eq!(found.to_string(), "FP4 without double quantisation");
    }

    #[rstest]
    #[case("quant_method", json!("gptq"), "is \"gptq\", expected \"bitsandbytes\"")]
    #[case("quant_method", Value::Null, "is null, expected \"bitsandbytes\"")]
    #[case("load_in_8bit", json!(true), "8 bits are not supported")]
    #[case("load_in_4bit", json!(false), "load_in_4bit: true")]
    #[case("load_in_4bit", json!("yes"), "is \"yes\", expected true or false")]
    #[case("bnb_4bit_quant_type", json!("int4"), "is \"int4\", expected \"nf4\" or \"fp4\"")]
    #[case("bnb_5bit", json!(1), "does not know its key `bnb_5bit`")]
    fn another_quantisation_is_refused_by_name(
        #[case] key: &str,
        #[case] value: Value,
        #[case] expected: &str,
    ) {
        let mut keys = saved();
        keys[key] = value;
        let error = parse(&keys).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
