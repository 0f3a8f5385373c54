//! Whether a PEFT adapter makes sense, before an engine sees it: safetensors only, matched pairs of matrices of one rank,
//! finite numbers, nothing that our engine would ignore.

use std::path::Path;

use finetune_artifacts::safetensors_file::{Dtype, SafetensorsFile, TensorView};
use finetune_crds::contract::layout::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use serde::Deserialize;

const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// The keys of `adapter_config.json` on which the check rests.
#[derive(Debug, Deserialize)]
struct Config {
    peft_type: String,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    modules_to_save: Option<Vec<String>>,
}

/// Checks the adapter in `folder`. The error says what is wrong with it. Blocks: it reads every number once.
pub(crate) fn check(folder: &Path) -> Result<(), String> {
    let text = std::fs::read(folder.join(ADAPTER_CONFIG))
        .map_err(|error| format!("failed to read {ADAPTER_CONFIG}: {error}"))?;
    check_config(&text).map_err(|problem| format!("{ADAPTER_CONFIG}: {problem}"))?;
    let file =
        SafetensorsFile::open(&folder.join(ADAPTER_WEIGHTS)).map_err(|error| error.to_string())?;
    check_tensors(&file).map_err(|problem| format!("{ADAPTER_WEIGHTS}: {problem}"))
}

fn check_config(text: &[u8]) -> Result<(), String> {
    let config: Config =
        serde_json::from_slice(text).map_err(|error| format!("does not parse: {error}"))?;
    if config.peft_type != "LORA" {
        return Err(format!(
            "peft_type is `{}`, expected `LORA`",
            config.peft_type
        ));
    }
    if config.use_dora {
        return Err("use_dora is true, expected plain LoRA".into());
    }
    if let Some(bias) = config.bias.filter(|bias| bias != "none") {
        return Err(format!("bias is `{bias}`, expected `none`"));
    }
    if config
        .modules_to_save
        .is_some_and(|modules| !modules.is_empty())
    {
        return Err("modules_to_save is not empty, expected matrices A and B only".into());
    }
    Ok(())
}

fn check_tensors(file: &SafetensorsFile) -> Result<(), String> {
    let mut pairs = 0;
    for name in file.names() {
        let tensor = file.tensor(name).map_err(|error| error.to_string())?;
        let [rows, columns] = tensor.shape else {
            return Err(format!(
                "tensor `{name}` has shape {:?}, expected a matrix",
                tensor.shape
            ));
        };
        if *rows == 0 || *columns == 0 {
            return Err(format!("tensor `{name}` is empty"));
        }
        if !is_finite(&tensor).ok_or_else(|| {
            format!(
                "tensor `{name}` is of type {:?}, expected F32, F16 or BF16",
                tensor.dtype
            )
        })? {
            return Err(format!(
                "tensor `{name}` holds a value that is not a number"
            ));
        }
        if let Some(module) = name.strip_suffix(A) {
            let partner = format!("{module}{B}");
            let other = file
                .tensor(&partner)
                .map_err(|_| format!("tensor `{name}` has no `{partner}`"))?;
            if other.shape.get(1) != Some(rows) {
                return Err(format!(
                    "`{name}` has rank {rows} and `{partner}` shape {:?}: the ranks differ",
                    other.shape
                ));
            }
            pairs += 1;
        } else if let Some(module) = name.strip_suffix(B) {
            let partner = format!("{module}{A}");
            file.tensor(&partner)
                .map_err(|_| format!("tensor `{name}` has no `{partner}`"))?;
        } else {
            return Err(format!("tensor `{name}` is neither lora_A nor lora_B"));
        }
    }
    if pairs == 0 {
        return Err("holds no pair of lora_A and lora_B".into());
    }
    Ok(())
}

/// Whether all numbers are finite; `None` for a type that an adapter does not have. A number is not finite where all
/// bits of its exponent are set.
fn is_finite(tensor: &TensorView<'_>) -> Option<bool> {
    let half = |mask: u16| {
        let (values, rest) = tensor.bytes.as_chunks::<2>();
        rest.is_empty()
            && values
                .iter()
                .all(|value| u16::from_le_bytes(*value) & mask != mask)
    };
    match tensor.dtype {
        Dtype::F32 => {
            let (values, rest) = tensor.bytes.as_chunks::<4>();
            Some(
                rest.is_empty()
                    && values
                        .iter()
                        .all(|value| f32::from_le_bytes(*value).is_finite()),
            )
        }
        Dtype::F16 => Some(half(0x7c00)),
        Dtype::BF16 => Some(half(0x7f80)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use finetune_artifacts::safetensors_file::{TensorData, write};

    const MODULE: &str = "base_model.model.model.layers.0.self_attn.q_proj";

    fn folder(config: &str, tensors: &[(&str, Vec<usize>, f32)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(ADAPTER_CONFIG), config).unwrap();
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, shape, value)| value.to_le_bytes().repeat(shape.iter().product()))
            .collect();
        let names: Vec<_> = tensors
            .iter()
            .map(|(name, ..)| format!("{MODULE}{name}"))
            .collect();
        let tensors = tensors
            .iter()
            .zip(&bytes)
            .map(|((_, shape, _), bytes)| TensorData {
                dtype: Dtype::F32,
                shape,
                bytes,
            });
        let named = names.iter().map(String::as_str).zip(tensors);
        write(&folder.path().join(ADAPTER_WEIGHTS), named, None).unwrap();
        folder
    }

    fn good() -> Vec<(&'static str, Vec<usize>, f32)> {
        vec![(A, vec![2, 4], 0.5), (B, vec![3, 2], 0.25)]
    }

    const PLAIN: &str = r#"{"peft_type":"LORA","r":2,"bias":"none"}"#;

    #[test]
    fn a_plain_adapter_passes() {
        check(folder(PLAIN, &good()).path()).unwrap();
    }

    #[rstest::rstest]
    #[case::other_method(r#"{"peft_type":"IA3"}"#, "peft_type is `IA3`")]
    #[case::dora(r#"{"peft_type":"LORA","use_dora":true}"#, "use_dora")]
    #[case::bias(r#"{"peft_type":"LORA","bias":"all"}"#, "bias is `all`")]
    #[case::whole_modules(
        r#"{"peft_type":"LORA","modules_to_save":["lm_head"]}"#,
        "modules_to_save"
    )]
    #[case::not_json("{", "does not parse")]
    fn a_config_that_the_engine_would_not_honour_is_refused(
        #[case] config: &str,
        #[case] message: &str,
    ) {
        let error = check(folder(config, &good()).path()).unwrap_err();
        assert!(error.contains(message), "{error}");
    }

    #[rstest::rstest]
    #[case::no_partner(vec![(A, vec![2, 4], 0.5)], "has no")]
    #[case::no_partner_of_b(vec![(B, vec![2, 4], 0.5)], "has no")]
    #[case::ranks_differ(vec![(A, vec![2, 4], 0.5), (B, vec![3, 3], 0.5)], "the ranks differ")]
    #[case::not_a_matrix(vec![(A, vec![8], 0.5), (B, vec![3, 2], 0.5)], "expected a matrix")]
    #[case::not_a_number(vec![(A, vec![2, 4], f32::NAN), (B, vec![3, 2], 0.5)], "not a number")]
    #[case::stranger(vec![(".weight", vec![2, 4], 0.5)], "neither lora_A nor lora_B")]
    fn weights_that_make_no_sense_are_refused(
        #[case] tensors: Vec<(&str, Vec<usize>, f32)>,
        #[case] message: &str,
    ) {
        let error = check(folder(PLAIN, &tensors).path()).unwrap_err();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn a_truncated_file_is_refused() {
        let folder = folder(PLAIN, &good());
        let path = folder.path().join(ADAPTER_WEIGHTS);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
        assert!(check(folder.path()).is_err());
    }
}
