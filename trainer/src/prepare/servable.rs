//! Whether the engines of `output.adapter.engines` can serve the adapter that a job would train on its base, asked before any
//! row is read.
//!
//! Pure. What holds whatever the base is, validation asks. Read in the sources of vLLM 0.33 and SGLang 0.5.23. How an engine
//! was started is not known here: the flags that it needs are told, not checked.

use std::collections::BTreeMap;

use finetune_crds::FineTuneJobSpec;
use finetune_crds::fine_tune_job::ServingEngine;
use finetune_numerics::adapter::{AdaptedModule, Lora, LoraSettings};
use finetune_numerics::architecture::ModelConfig;
use finetune_numerics::ops;

use crate::base::Family;
use crate::job::TrainingMethod;
use crate::validate;

/// The values that vLLM's `--max-lora-rank` takes.
const VLLM_RANKS: [i64; 9] = [1, 8, 16, 32, 64, 128, 256, 320, 512];
/// Its value where the flag is absent.
const VLLM_DEFAULT_RANK: i64 = 16;

/// Refuses settings that no adapter on this base can have, and an adapter that one of the engines could not serve. Returns
/// what to mind where it is served.
pub(super) fn check(spec: &FineTuneJobSpec, config: &ModelConfig) -> Result<Vec<String>, String> {
    let method = TrainingMethod::of(&spec.method);
    let Some(adapter) = method.adapter() else {
        return Ok(Vec::new());
    };
    let method = method.name();
    let modules = Lora::adapted(config, &adapter.lora).map_err(|error| {
        let message = match error {
            ops::Error::Adapter(message) => message,
            other => other.to_string(),
        };
        format!("spec.method.{method}: {message}")
    })?;
    refuse_unknown_to_llama_cpp(spec, config)?;
    let mut notes = Vec::new();
    for engine in spec.engines() {
        match engine {
            ServingEngine::Vllm => notes.extend(notes_on_vllm(&adapter.lora, &modules)),
            ServingEngine::SgLang => {
                refuse_halves(&modules).map_err(|fault| {
                    format!(
                        "spec.method.{method}.targetModules {fault}, or remove SGLang from spec.output.adapter.engines"
                    )
                })?;
                notes.push(note_on_sglang(&modules));
            }
            ServingEngine::Finetune => {}
        }
    }
    Ok(notes)
}

fn refuse_unknown_to_llama_cpp(spec: &FineTuneJobSpec, config: &ModelConfig) -> Result<(), String> {
    let wanted = spec.output.as_ref().is_some_and(|o| o.gguf_adapter);
    if wanted
        && Family::of_class(&config.architecture).is_none_or(|family| family.llama_cpp.is_none())
    {
        return Err(format!(
            "spec.output.ggufAdapter is true, but llama.cpp has no architecture for a {}: remove it",
            config.architecture
        ));
    }
    Ok(())
}

/// Whether an engine can serve the adapter of a job, whether the manifest asks or not.
pub(crate) fn is_served_by(
    engine: ServingEngine,
    spec: &FineTuneJobSpec,
    config: &ModelConfig,
) -> bool {
    let mut spec = spec.clone();
    let output = spec.output.get_or_insert_default();
    let adapter = output.adapter.get_or_insert_default();
    adapter.engines = vec![engine];
    validate::engine_faults(adapter, &spec.method).is_empty() && check(&spec, config).is_ok()
}

/// The value of vLLM's `--max-lora-rank` that an adapter of this rank needs; `None` where none is enough.
pub(crate) fn vllm_step(rank: i64) -> Option<i64> {
    VLLM_RANKS.into_iter().find(|step| *step >= rank)
}

fn greatest_rank(modules: &[AdaptedModule]) -> i64 {
    modules.iter().map(|module| module.rank).max().unwrap_or(0)
}

fn notes_on_vllm(settings: &LoraSettings, modules: &[AdaptedModule]) -> Vec<String> {
    let rank = greatest_rank(modules);
    let mut notes = Vec::new();
    if let Some(step) = vllm_step(rank).filter(|step| *step > VLLM_DEFAULT_RANK) {
        notes.push(format!(
            "vLLM refuses an adapter of rank {rank} unless it was started with --max-lora-rank {step} or more"
        ));
    }
    if !(settings.rank_pattern.is_empty() && settings.alpha_pattern.is_empty()) {
        notes.push(
            "rankPattern and alphaPattern are known to vLLM 0.32 and newer; an older one may scale every module alike"
                .to_owned(),
        );
    }
    notes
}

fn note_on_sglang(modules: &[AdaptedModule]) -> String {
    let mut names: Vec<&str> = modules.iter().map(last_name).collect();
    names.sort_unstable();
    names.dedup();
    format!(
        "SGLang loads the adapter only if it was started with --max-lora-rank {} or more and --lora-target-modules {}",
        greatest_rank(modules),
        names.join(" ")
    )
}

fn last_name(module: &AdaptedModule) -> &str {
    module.name.rsplit('.').next().unwrap_or(&module.name)
}

/// Refuses what SGLang would leave out or fail on: it has queries, keys and values as one layer, made where there are
/// queries, for which values must be there too; likewise gate and up, made where there is a gate.
fn refuse_halves(modules: &[AdaptedModule]) -> Result<(), String> {
    let mut blocks: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for module in modules {
        let (block, _) = module.name.rsplit_once('.').unwrap_or_default();
        blocks.entry(block).or_default().push(last_name(module));
    }
    for (block, names) in blocks {
        let has = |name: &str| names.contains(&name);
        let attention = ["q_proj", "k_proj", "v_proj"].into_iter().any(has);
        let missing = if attention && !has("q_proj") {
            "q_proj"
        } else if attention && !has("v_proj") {
            "v_proj"
        } else if has("up_proj") && !has("gate_proj") {
            "gate_proj"
        } else {
            continue;
        };
        return Err(format!(
            "name {} of `{block}` but not {missing}, which SGLang needs beside them: add {missing}",
            names.join(", ")
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::base::BaseModelFiles;

    fn checked(base: &str, method: Value, engines: &[&str]) -> Result<Vec<String>, String> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let files = BaseModelFiles::open(&folder.join(base)).unwrap();
        let spec = serde_json::from_value(json!({
            "baseModel": { "uri": "file:///base/" },
            "dataset": { "train": [] },
            "method": method,
            "output": { "adapter": { "engines": engines } },
        }));
        check(&spec.unwrap(), files.config())
    }

    #[rstest]
    #[case("tiny-llama", "q_proj v_proj", None)]
    #[case("tiny-llama", "q_proj k_proj v_proj o_proj", None)]
    #[case("tiny-llama", "gate_proj down_proj", None)]
    #[case("families/phi3", "qkv_proj gate_up_proj", None)]
    #[case("tiny-llama", "q_proj", Some("add v_proj, or remove SGLang"))]
    #[case(
        "tiny-llama",
        "k_proj v_proj",
        Some("k_proj, v_proj of `model.layers.0.self_attn` but not q_proj")
    )]
    #[case(
        "tiny-llama",
        "up_proj",
        Some("up_proj of `model.layers.0.mlp` but not gate_proj")
    )]
    #[case(
        "tiny-llama",
        "layers.1.self_attn.q_proj",
        Some("model.layers.1.self_attn")
    )]
    fn sglang_is_refused_half_a_layer(
        #[case] base: &str,
        #[case] modules: &str,
        #[case] refused: Option<&str>,
    ) {
        let modules: Vec<&str> = modules.split(' ').collect();
        let method = json!({ "lora": { "rank": 4, "targetModules": modules } });
        let result = checked(base, method.clone(), &["SGLang"]);
        match refused {
            None => assert_eq!(result.unwrap().len(), 1),
            Some(words) => {
                let message = result.unwrap_err();
                assert!(message.contains(words), "{message}");
                assert!(
                    message.starts_with("spec.method.lora.targetModules"),
                    "{message}"
                );
            }
        }
        assert_eq!(checked(base, method, &["VLLM", "Finetune"]), Ok(Vec::new()));
    }

    #[rstest]
    #[case(8, None)]
    #[case(16, None)]
    #[case(17, Some("rank 17 unless it was started with --max-lora-rank 32"))]
    #[case(48, Some("--max-lora-rank 64"))]
    fn the_flag_that_vllm_needs_is_told(#[case] rank: i64, #[case] told: Option<&str>) {
        let method = json!({ "qlora": { "rank": rank, "targetModules": ["gate_proj"] } });
        let notes = checked("tiny-llama-64", method, &["VLLM"]).unwrap();
        assert_eq!(notes.len(), usize::from(told.is_some()), "{notes:?}");
        if let Some(words) = told {
            assert!(notes[0].contains(words), "{notes:?}");
        }
    }

    #[test]
    fn without_engines_nothing_is_told() {
        let method = json!({ "lora": { "rank": 20, "targetModules": ["up_proj"] } });
        assert_eq!(checked("tiny-llama", method, &[]), Ok(Vec::new()));
    }

    #[rstest]
    #[case(
        json!({ "rank": 17 }),
        "spec.method.lora: `rank` gives `model.layers.0.self_attn.k_proj` the rank 17, but its matrix is 16 x 32 (out x in), \
         expected at most 16: lower it, or set `rankPattern: { k_proj: 16 }`"
    )]
    #[case(
        json!({ "rank": 4, "rankPattern": { "layers.1.mlp.down_proj": 33 } }),
        "spec.method.lora: `rankPattern` gives `model.layers.1.mlp.down_proj` the rank 33, but its matrix is 32 x 48 (out x in), \
         expected at most 32: lower it to at most 32 there"
    )]
    fn a_rank_over_the_matrix_is_refused(#[case] lora: Value, #[case] message: &str) {
        let refused = checked("tiny-llama", json!({ "lora": lora }), &[]).unwrap_err();
        assert!(refused.contains(message), "{refused}");
    }

    #[test]
    fn a_rank_of_the_whole_matrix_is_taken() {
        let patterns = json!({ "rank": 32, "rankPattern": { "k_proj|v_proj": 16 } });
        assert!(checked("tiny-llama", json!({ "lora": patterns }), &[]).is_ok());
    }
}
