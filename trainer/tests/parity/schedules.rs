//! Learning rates, as transformers' `get_scheduler` gives them.

use finetune_numerics::optimizer::{Schedule, learning_rate};

use crate::fixture::json;

#[test]
fn learning_rates_equal_those_of_transformers() {
    let cases = json("expected/schedules.json");
    let cases = cases.as_array().unwrap();
    assert!(cases.len() >= 12);
    for case in cases {
        let schedule = match case["schedule"].as_str().unwrap() {
            "constant" | "constant_with_warmup" => Schedule::Constant,
            "linear" => Schedule::Linear,
            "cosine" => Schedule::Cosine,
            other => panic!("{other}"),
        };
        let (total, warmup) = (
            case["total"].as_u64().unwrap(),
            case["warmup"].as_u64().unwrap(),
        );
        for step in 0..total {
            let expected = case["factors"][step as usize].as_f64().unwrap();
            let ours = learning_rate(schedule, 2e-3, step, warmup, total) / 2e-3;
            assert!(
                (ours - expected).abs() < 1e-12,
                "{schedule:?} of {total}, warm-up {warmup}, step {step}: {ours}, expected {expected}"
            );
        }
    }
}
