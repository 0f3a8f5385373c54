//! The golden test: does the engine answer as the adapter makes it answer, and otherwise than the base?
//!
//! A 200 from an engine proves nothing. It may serve the base in silence, another version, or the right one at the wrong
//! scale; the log-probabilities of fixed sequences tell them apart.

use finetune_crds::contract::Golden;
use finetune_crds::contract::golden::GoldenSample;

use super::engine::{EngineError, FinetuneEngine};

/// The least mean absolute difference, in nats, between base and adapter: below it, nobody could tell them apart, and
/// an adapter whose B is zero gives exactly 0.
const LEAST_EFFECT: f64 = 1e-5;

/// What an engine answered for one sample.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Log-probabilities under the base.
    pub base: Vec<f64>,
    /// Log-probabilities under the version.
    pub adapter: Vec<f64>,
}

/// Parses `golden.json` and refuses one that could prove nothing.
pub(crate) fn parse(bytes: &[u8]) -> Result<Golden, String> {
    let golden: Golden = serde_json::from_slice(bytes)
        .map_err(|error| format!("golden.json does not parse: {error}"))?;
    if golden.samples.is_empty() {
        return Err("golden.json has no samples, expected at least one".into());
    }
    if !(golden.tolerance.is_finite() && golden.tolerance > 0.0) {
        return Err(format!(
            "golden.json has tolerance {}, expected a number above 0",
            golden.tolerance
        ));
    }
    for (index, sample) in golden.samples.iter().enumerate() {
        check_sample(sample)
            .map_err(|problem| format!("golden.json: samples[{index}] {problem}"))?;
    }
    let effect = mean(
        golden
            .samples
            .iter()
            .flat_map(|sample| differences(&sample.adapter, &sample.base)),
    );
    if effect < LEAST_EFFECT {
        return Err(format!(
            "the adapter changes nothing: by golden.json it moves log-probabilities by {effect:.1e} nats on average, \
             expected at least {LEAST_EFFECT:.0e} (its B matrices are probably zero); train it for more steps or with a \
             greater learning rate"
        ));
    }
    Ok(golden)
}

/// Asks the engine for everything that [`judge`] needs.
pub(crate) async fn ask(
    engine: &FinetuneEngine,
    golden: &Golden,
    base: &str,
    version: &str,
) -> Result<Vec<Answer>, EngineError> {
    let mut answers = Vec::new();
    for sample in &golden.samples {
        answers.push(Answer {
            base: engine.log_probabilities(base, &sample.tokens).await?,
            adapter: engine.log_probabilities(version, &sample.tokens).await?,
        });
    }
    Ok(answers)
}

/// Whether the answers prove the version. The error says what is wrong with them.
pub(crate) fn judge(golden: &Golden, answers: &[Answer]) -> Result<(), String> {
    let pairs = || golden.samples.iter().zip(answers);
    let error_of_base =
        mean(pairs().flat_map(|(sample, answer)| differences(&sample.base, &answer.base)));
    let error =
        mean(pairs().flat_map(|(sample, answer)| differences(&sample.adapter, &answer.adapter)));
    let expected = mean(
        golden
            .samples
            .iter()
            .flat_map(|sample| differences(&sample.adapter, &sample.base)),
    );
    let effect = mean(
        answers
            .iter()
            .flat_map(|answer| differences(&answer.adapter, &answer.base)),
    );
    let tolerance = golden.tolerance;
    if exceeds(error_of_base, tolerance) {
        return Err(format!(
            "the engine serves another base: its log-probabilities without the adapter differ from golden.json's by \
             {error_of_base:.4} nats on average, at most {tolerance} are allowed; serve the base that the adapter was \
             trained on"
        ));
    }
    if exceeds(expected / 2.0, effect) {
        return Err(format!(
            "the engine answers as the base does: the adapter moves its log-probabilities by {effect:.1e} nats on \
             average, by golden.json {expected:.1e} are expected; the adapter is not applied, or at the wrong scale"
        ));
    }
    if exceeds(error, tolerance) {
        return Err(format!(
            "the engine answers otherwise than golden.json says: log-probabilities differ by {error:.4} nats on \
             average, at most {tolerance} are allowed; it holds another version, or applies it at the wrong scale"
        ));
    }
    Ok(())
}

fn check_sample(sample: &GoldenSample) -> Result<(), String> {
    let expected = sample.tokens.len().saturating_sub(1);
    if expected == 0 {
        return Err("has fewer than two tokens".into());
    }
    for (name, values) in [("base", &sample.base), ("adapter", &sample.adapter)] {
        if values.len() != expected {
            return Err(format!(
                "has {} values in `{name}`, expected {expected}",
                values.len()
            ));
        }
        if values.iter().any(|value| !value.is_finite()) {
            return Err(format!("has a value in `{name}` that is not a number"));
        }
    }
    Ok(())
}

fn differences<'a>(left: &'a [f64], right: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
    left.iter()
        .zip(right)
        .map(|(left, right)| (left - right).abs())
}

/// Whether `value` is above `limit`, or cannot be compared with it.
fn exceeds(value: f64, limit: f64) -> bool {
    value
        .partial_cmp(&limit)
        .is_none_or(std::cmp::Ordering::is_gt)
}

/// The mean; NaN of nothing, so that no comparison with it passes.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    sum / f64::from(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: [f64; 3] = [-1.0, -2.0, -3.0];
    const ADAPTER: [f64; 3] = [-0.9, -2.2, -2.7];

    fn golden(base: &[f64], adapter: &[f64]) -> Golden {
        Golden {
            dtype: "float32".into(),
            tolerance: 0.05,
            samples: vec![GoldenSample {
                tokens: vec![1, 2, 3, 4],
                base: base.to_vec(),
                adapter: adapter.to_vec(),
            }],
        }
    }

    fn verdict(base: [f64; 3], adapter: [f64; 3]) -> Result<(), String> {
        let answer = Answer {
            base: base.to_vec(),
            adapter: adapter.to_vec(),
        };
        judge(&golden(&BASE, &ADAPTER), &[answer])
    }

    #[test]
    fn the_right_answer_with_noise_passes() {
        verdict([-1.01, -2.02, -3.0], [-0.91, -2.21, -2.72]).unwrap();
    }

    #[rstest::rstest]
    #[case::silent_base(BASE, BASE, "answers as the base")]
    #[case::half_the_scale(BASE, [-0.97, -2.06, -2.91], "answers as the base")]
    #[case::double_the_scale(BASE, [-0.8, -2.4, -2.4], "otherwise than golden.json")]
    #[case::another_version(BASE, [-1.1, -1.8, -3.3], "otherwise than golden.json")]
    #[case::another_base([-2.0, -3.0, -4.0], [-1.9, -3.2, -3.7], "another base")]
    #[case::not_a_number(BASE, [f64::NAN, -2.2, -2.7], "answers as the base")]
    fn a_wrong_answer_fails_with_its_likely_cause(
        #[case] base: [f64; 3],
        #[case] adapter: [f64; 3],
        #[case] cause: &str,
    ) {
        let message = verdict(base, adapter).unwrap_err();
        assert!(message.contains(cause), "{message}");
    }

    #[test]
    fn an_adapter_that_changes_nothing_is_refused_with_that_reason() {
        let bytes = serde_json::to_vec(&golden(&BASE, &BASE)).unwrap();
        let message = parse(&bytes).unwrap_err();
        assert!(message.contains("changes nothing"), "{message}");
    }

    #[test]
    fn lists_of_the_wrong_length_are_refused() {
        let bytes = serde_json::to_vec(&golden(&BASE[..2], &ADAPTER)).unwrap();
        let message = parse(&bytes).unwrap_err();
        assert!(
            message.contains("2 values in `base`, expected 3"),
            "{message}"
        );
    }
}
