//! What the engines of `spec.output.adapter.engines` cannot serve whatever the base is, read in the sources of vLLM 0.33
//! (`lora/peft_helper.py`) and SGLang 0.5.23 (`lora/lora.py`, `lora/lora_manager.py`).
//!
//! What depends on the base is asked when its configuration is there.

use finetune_crds::fine_tune_job::{Lora, Method, OutputAdapter, ServingEngine};

use super::Fault;

/// The greatest `--max-lora-rank` of vLLM.
const VLLM_MOST: i64 = 512;

pub(super) fn check_engines(adapter: &OutputAdapter, method: &Method, faults: &mut Vec<Fault>) {
    let engines = &adapter.engines;
    let adapters = [
        method.lora.clone().map(|lora| ("lora", lora)),
        method.qlora.as_ref().map(|qlora| ("qlora", qlora.lora())),
    ];
    for (name, lora) in adapters.into_iter().flatten() {
        let field = format!("spec.method.{name}");
        for engine in engines {
            check_engine(*engine, &field, &lora, faults);
        }
    }
}

fn check_engine(engine: ServingEngine, field: &str, lora: &Lora, faults: &mut Vec<Fault>) {
    let name = engine.name();
    let mut refuse = |setting: &str, message: String| {
        faults.push(Fault::new(
            &format!("{field}.{setting}"),
            format!("{message}, or remove {name} from spec.output.adapter.engines"),
        ));
    };
    let is_foreign = match engine {
        ServingEngine::Vllm | ServingEngine::SgLang => true,
        ServingEngine::Finetune => false,
    };
    if is_foreign && lora.use_dora {
        refuse(
            "useDora",
            format!("is true, but {name} serves no DoRA: set it to false"),
        );
    }
    if engine == ServingEngine::Vllm {
        let ranks = lora
            .rank_pattern
            .values()
            .map(|rank| ("rankPattern", *rank));
        let over = std::iter::once(("rank", lora.rank)).chain(ranks);
        if let Some((setting, rank)) = over.into_iter().find(|(_, rank)| *rank > VLLM_MOST) {
            refuse(
                setting,
                format!("is {rank}, but {name} serves ranks of up to {VLLM_MOST}: lower it"),
            );
        }
    }
    if engine == ServingEngine::SgLang {
        if lora.use_rslora {
            let alpha = (lora.alpha as f64 * (lora.rank as f64).sqrt()).round();
            let cure = match alpha <= 65536.0 {
                true => format!(" and alpha to {alpha}, which is about alpha x sqrt(rank)"),
                false => String::new(),
            };
            refuse(
                "useRslora",
                format!("is true, but {name} scales by alpha / rank: set it to false{cure}"),
            );
        }
        for (setting, pattern) in [
            ("rankPattern", &lora.rank_pattern),
            ("alphaPattern", &lora.alpha_pattern),
        ] {
            if let Some((module, value)) = pattern.first_key_value() {
                refuse(
                    setting,
                    format!(
                        "has `{module}: {value}`, but {name} knows one rank and one alpha for all modules: remove it"
                    ),
                );
            }
        }
    }
}
