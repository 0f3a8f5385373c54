//! `README.md`: what a result was made from and how to load it.
//!
//! No times and no scores: the same run must give the same bytes.

use std::fmt::Write;

use finetune_crds::contract::layout::ADAPTER_GGUF;
use finetune_crds::fine_tune_job::ServingEngine;
use finetune_numerics::adapter::Lora;
use finetune_numerics::architecture::ModelConfig;

use crate::base::BaseModelFiles;
use crate::job::{Job, TrainingMethod};
use crate::prepare::servable;
use crate::run::inputs::Inputs;
use crate::run::plan::Plan;

/// The card of `job`'s result.
pub(super) fn text(job: &Job, inputs: &Inputs, plan: &Plan) -> String {
    let base_uri = super::shown(&job.spec.base_model.uri);
    let is_adapter = job.method.adapter().is_some();
    let name = job.spec.adapter_name(&job.name).unwrap_or(&job.name);
    let mut card = String::new();
    // Writing to a string cannot fail.
    let _ = write_front_matter(&mut card, is_adapter, &super::base_name(&base_uri));
    let _ = write!(
        card,
        "# {name}\n\n{}\n\n## Made from\n\n| | |\n| --- | --- |\n\
         | Base model | `{base_uri}`{} |\n| Digest of the base | `{}` |\n| Architecture | {} |\n\
         | Digest of the data | `{}` |\n| Rows | {} |\n| Tokens with loss | {} |\n\n",
        if is_adapter {
            "A low-rank adapter (LoRA). It works on its base model only."
        } else {
            "A whole model, all weights of which were trained."
        },
        at_commit(&inputs.base),
        inputs.base_digest,
        inputs.base.config().architecture,
        inputs.data.report.dataset.digest,
        inputs.data.report.dataset.rows,
        inputs.data.report.dataset.trainable_tokens,
    );
    let _ = write_hyper_parameters(&mut card, job, plan);
    let _ = if is_adapter {
        write_adapter_usage(&mut card, name, job, inputs.base.config())
    } else {
        write_model_usage(&mut card, name)
    };
    card
}

/// The card of the base with the job's adapter merged into it.
pub(super) fn of_merged(job: &Job, base: &BaseModelFiles, base_digest: &str) -> String {
    let base_uri = super::shown(&job.spec.base_model.uri);
    let name = job.spec.adapter_name(&job.name).unwrap_or(&job.name);
    let mut card = String::new();
    // Writing to a string cannot fail.
    let _ = write_front_matter(&mut card, false, &super::base_name(&base_uri));
    let _ = write!(
        card,
        "# {name}\n\nA whole model: the base with a low-rank adapter (LoRA) merged into its weights, in the types in which \
         the base stores them.\n\n## Made from\n\n| | |\n| --- | --- |\n\
         | Base model | `{base_uri}`{} |\n| Digest of the base | `{base_digest}` |\n| Architecture | {} |\n\n",
        at_commit(base),
        base.config().architecture,
    );
    let _ = write_model_usage(&mut card, name);
    card
}

/// Which commit of a repository on the Hugging Face Hub.
fn at_commit(base: &BaseModelFiles) -> String {
    base.revision()
        .map_or_else(String::new, |commit| format!(" at commit `{commit}`"))
}

fn write_front_matter(card: &mut String, is_adapter: bool, base_uri: &str) -> std::fmt::Result {
    let library = if is_adapter { "peft" } else { "transformers" };
    write!(
        card,
        "---\nlibrary_name: {library}\nbase_model: {base_uri}\n---\n\n"
    )
}

fn write_hyper_parameters(card: &mut String, job: &Job, plan: &Plan) -> std::fmt::Result {
    let training = &job.spec.training;
    card.push_str("## Hyper-parameters\n\n| | |\n| --- | --- |\n");
    let mut row =
        |name: &str, value: &dyn std::fmt::Display| writeln!(card, "| {name} | {value} |");
    row("Method", &plan.method)?;
    if let Some(adapter) = job.method.adapter() {
        let lora = &adapter.lora;
        row("Rank", &lora.rank)?;
        row("Alpha", &lora.alpha)?;
        for (name, pattern) in [
            ("Ranks of some modules", &lora.rank_pattern),
            ("Alphas of some modules", &lora.alpha_pattern),
        ] {
            if !pattern.is_empty() {
                let entries: Vec<_> = pattern
                    .iter()
                    .map(|(module, value)| format!("`{module}` {value}"))
                    .collect();
                row(name, &entries.join(", ").replace('|', "\\|"))?;
            }
        }
        if lora.use_rslora {
            row("Scale", &"alpha / sqrt(rank) (rsLoRA)")?;
        }
        if lora.use_dora {
            row("Magnitudes", &"trained (DoRA)")?;
        }
        if adapter.dropout > 0.0 {
            row("Dropout", &adapter.dropout)?;
        }
        row("Target modules", &lora.target_modules.join(", "))?;
    }
    if let Some(adapter) = &job.spec.initial_adapter {
        row("Went on from", &format!("`{}`", adapter.uri))?;
    }
    if let Some(alpha) = training.neftune_noise_alpha {
        row("NEFTune's alpha", &alpha)?;
    }
    if let TrainingMethod::Qlora { quantization, .. } = &job.method {
        let double = if quantization.double_quantization {
            ", scales quantised too"
        } else {
            ""
        };
        row(
            "Base in training",
            &format!("{}{double}", quantization.code),
        )?;
    }
    row("Optimiser", &format!("{:?}", plan.optimizer))?;
    row("Optimiser steps", &plan.total_steps)?;
    row("Batch size", &plan.batch_size)?;
    if let Some(packs) = &plan.packs {
        row("Packed rows", &packs.len())?;
    }
    row("Peak learning rate", &format!("{:e}", plan.learning_rate))?;
    row(
        "Schedule",
        &format!("{:?}, {} warm-up steps", plan.schedule, plan.warmup_steps),
    )?;
    row("Weight decay", &training.weight_decay)?;
    row("Greatest gradient norm", &training.max_gradient_norm)?;
    row("Longest sequence", &job.spec.dataset.max_sequence_length)?;
    row("Seed", &training.seed)?;
    card.push('\n');
    Ok(())
}

fn write_adapter_usage(
    card: &mut String,
    name: &str,
    job: &Job,
    config: &ModelConfig,
) -> std::fmt::Result {
    write!(
        card,
        "## Use\n\nThis folder is `adapter/` below, the base `base/`. With transformers and peft:\n\n\
         ```python\n\
         from peft import PeftModel\n\
         from transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
         tokenizer = AutoTokenizer.from_pretrained(\"base/\")\n\
         base = AutoModelForCausalLM.from_pretrained(\"base/\")\n\
         model = PeftModel.from_pretrained(base, \"adapter/\")\n\
         ```\n\n\
         With the server of the trainer, which needs no Python:\n\n\
         ```sh\n\
         trainer serve --model BASE-URI --served-model-name base --adapter {name}=ADAPTER-URI --port 8000\n\
         ```\n\n"
    )?;
    let modules = job
        .method
        .adapter()
        .and_then(|settings| Lora::adapted(config, &settings.lora).ok())
        .unwrap_or_default();
    let rank = modules.iter().map(|module| module.rank).max().unwrap_or(0);
    let is_served = |engine| servable::is_served_by(engine, &job.spec, config);
    match servable::vllm_step(rank).filter(|_| is_served(ServingEngine::Vllm)) {
        Some(step) => write!(
            card,
            "With vLLM, the model's name in requests being `{name}`:\n\n\
             ```sh\n\
             vllm serve base/ --enable-lora --max-lora-rank {step} --lora-modules {name}=adapter/\n\
             ```\n\n"
        )?,
        None => card.push_str("vLLM cannot serve it.\n\n"),
    }
    if is_served(ServingEngine::SgLang) {
        write!(
            card,
            "With SGLang, the model's name in requests being `base:{name}` (`{name}` alone is answered by the base):\n\n\
             ```sh\n\
             python3 -m sglang.launch_server --model-path base/ --served-model-name base --enable-lora --lora-paths {name}=adapter/\n\
             ```\n\n"
        )?;
    } else {
        card.push_str("SGLang cannot serve it, or would scale it wrongly.\n\n");
    }
    if job.wants_gguf_adapter() {
        write!(
            card,
            "With llama.cpp, on a GGUF of the base in any type:\n\n\
             ```sh\n\
             llama-server -m base.gguf --lora adapter/{ADAPTER_GGUF}\n\
             ```\n\n"
        )?;
    }
    card.push_str(
        "`golden.json` holds log-probabilities that tell whether an engine really serves this adapter.\n",
    );
    Ok(())
}

fn write_model_usage(card: &mut String, name: &str) -> std::fmt::Result {
    write!(
        card,
        "## Use\n\nThis folder is `model/` below. With transformers:\n\n\
         ```python\n\
         from transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
         tokenizer = AutoTokenizer.from_pretrained(\"model/\")\n\
         model = AutoModelForCausalLM.from_pretrained(\"model/\")\n\
         ```\n\n\
         With the server of the trainer, which needs no Python:\n\n\
         ```sh\n\
         trainer serve --model MODEL-URI --served-model-name {name} --port 8000\n\
         ```\n\n\
         With vLLM or SGLang:\n\n\
         ```sh\n\
         vllm serve model/ --served-model-name {name}\n\
         python3 -m sglang.launch_server --model-path model/ --served-model-name {name}\n\
         ```\n"
    )
}
