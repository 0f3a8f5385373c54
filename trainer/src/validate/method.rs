//! The rules of `spec.method`, and of `spec.objective` beside it.

use finetune_crds::FineTuneJobSpec;
use finetune_crds::fine_tune_job::{Lora, Method};
use finetune_numerics::adapter::Pattern;

use super::{Fault, check_range};

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
    check_range(&format!("{field}.rank"), lora.rank, 1..=1024, faults);
    check_range(&format!("{field}.alpha"), lora.alpha, 1..=65536, faults);
    check_range(&format!("{field}.dropout"), lora.dropout, 0.0..=0.9, faults);
    if lora.target_modules.is_empty() || lora.target_modules.iter().any(String::is_empty) {
        faults.push(Fault::new(
            &format!("{field}.targetModules"),
            "is empty or has an empty name, expected names such as q_proj, or all-linear",
        ));
    }
    for (name, most, pattern) in [
        ("rankPattern", 1024, &lora.rank_pattern),
        ("alphaPattern", 65536, &lora.alpha_pattern),
    ] {
        let field = format!("{field}.{name}");
        if pattern.len() > 64 {
            let count = pattern.len();
            faults.push(Fault::new(
                &field,
                format!("has {count} patterns, expected at most 64"),
            ));
        }
        for value in pattern.values() {
            check_range(&field, *value, 1..=most, faults);
        }
        if let Err(error) = Pattern::new(pattern) {
            faults.push(Fault::new(&field, error));
        }
    }
}

pub(super) fn check_objective(spec: &FineTuneJobSpec, faults: &mut Vec<Fault>) {
    let Some(objective) = &spec.objective else {
        return;
    };
    match (&objective.sft, &objective.dpo) {
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
    let Some(dpo) = &objective.dpo else {
        return;
    };
    check_range("spec.objective.dpo.beta", dpo.beta, 1e-10..=100.0, faults);
    if spec.method.full.is_some() {
        faults.push(Fault::new(
            "spec.objective.dpo",
            "is set with method full, whose reference would be a second model: use lora or qlora",
        ));
    }
    if spec.dataset.replay.is_some() {
        faults.push(Fault::new(
            "spec.dataset.replay",
            "is set with objective dpo, which learns from pairs of answers alone: remove it",
        ));
    }
    if spec.training.micro_batch_size.is_some() {
        faults.push(Fault::new(
            "spec.training.microBatchSize",
            "is set with objective dpo, which takes one answer a pass: remove it",
        ));
    }
}
