//! The rules of `spec.method`, and of `spec.objective` beside it.

use finetune_crds::FineTuneJobSpec;
use finetune_crds::fine_tune_job::{Lora, Method, Objective};
use finetune_numerics::adapter::Pattern;

use super::Fault;

pub(super) fn check_method(method: &Method, faults: &mut Vec<Fault>) {
    let named: Vec<&str> = [
        method.full.is_some().then_some("full"),
        method.lora.is_some().then_some("lora"),
        method.qlora.is_some().then_some("qlora"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if named.len() != 1 {
        let seen = if named.is_empty() {
            "none".to_owned()
        } else {
            named.join(" and ")
        };
        faults.push(Fault::new(
            "spec.method",
            format!("has {seen}, expected exactly one of full, lora and qlora"),
        ));
    }
    let adapters = [
        method.lora.clone().map(|lora| ("lora", lora)),
        method.qlora.as_ref().map(|qlora| ("qlora", qlora.lora())),
    ];
    for (name, lora) in adapters.into_iter().flatten() {
        check_lora(&format!("spec.method.{name}"), &lora, faults);
    }
}

fn check_lora(field: &str, lora: &Lora, faults: &mut Vec<Fault>) {
    for (name, pattern) in [
        ("rankPattern", &lora.rank_pattern),
        ("alphaPattern", &lora.alpha_pattern),
    ] {
        if let Err(error) = Pattern::new(pattern) {
            faults.push(Fault::new(&format!("{field}.{name}"), error));
        }
    }
}

pub(super) fn check_objective(spec: &FineTuneJobSpec, faults: &mut Vec<Fault>) {
    let Some(objective) = &spec.objective else {
        return;
    };
    let Objective { sft, dpo } = objective;
    match (sft, dpo) {
        (Some(_), Some(_)) => faults.push(Fault::new(
            "spec.objective",
            "has both sft and dpo, expected exactly one: remove one of them",
        )),
        (None, None) => faults.push(Fault::new(
            "spec.objective",
            "has neither sft nor dpo, expected exactly one: add one, or remove objective",
        )),
        (Some(_), None) | (None, Some(_)) => {}
    }
    if dpo.is_some() && spec.method.full.is_some() {
        faults.push(Fault::new(
            "spec.objective.dpo",
            "is set with method full, whose reference would be a second model: use lora or qlora",
        ));
    }
    let Some(name) = objective.of_pairs() else {
        return;
    };
    if spec.dataset.replay.is_some() {
        faults.push(Fault::new(
            "spec.dataset.replay",
            format!(
                "is set with objective {name}, which learns from pairs of answers alone: remove it"
            ),
        ));
    }
    if spec.training.micro_batch_size.is_some() {
        faults.push(Fault::new(
            "spec.training.microBatchSize",
            format!("is set with objective {name}, which takes one answer a pass: remove it"),
        ));
    }
}
