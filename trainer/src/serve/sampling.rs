//! Choosing the next token from a row of logits. Pure: the same logits, settings and seed give the same token.

use std::cmp::Ordering;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sampling {
    /// 0 takes the likeliest token; more flattens the distribution.
    pub(crate) temperature: f64,
    /// Only the likeliest tokens that together have this probability among those that `top_k` leaves; 1 for all.
    pub(crate) top_p: f64,
    /// Only so many of the likeliest tokens.
    pub(crate) top_k: Option<usize>,
    /// Makes the choice repeatable.
    pub(crate) seed: Option<u64>,
}

/// Chooses the tokens of one answer.
#[derive(Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
}

impl Sampler {
    /// A sampler at the start of an answer. Without a seed it takes one from the system.
    pub(crate) fn new(sampling: Sampling) -> Self {
        let seed = sampling.seed.unwrap_or_else(rand::random);
        Self {
            sampling,
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// The next token. `logits` must not be empty; of equal ones the first wins.
    pub(crate) fn choose(&mut self, logits: &[f32]) -> u32 {
        if self.sampling.temperature <= 0.0 || self.sampling.top_k == Some(1) {
            return likeliest(logits);
        }
        let mut weights = tempered(logits, self.sampling.temperature);
        // As vLLM and transformers have it: what `top_p` is a part of is what `top_k` leaves.
        if let Some(top_k) = self.sampling.top_k {
            keep_heaviest(&mut weights, top_k);
        }
        if self.sampling.top_p < 1.0 {
            let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
            keep_mass(&mut weights, self.sampling.top_p * total);
        }
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let mut left = self.random.random::<f64>() * total;
        for (token, weight) in &weights {
            left -= weight;
            if left < 0.0 {
                return *token;
            }
        }
        // Rounding may leave a rest after the last token; so may logits that are not numbers.
        weights
            .last()
            .map_or_else(|| likeliest(logits), |(token, _)| *token)
    }
}

/// The first of the greatest logits.
pub(crate) fn likeliest(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, logit) in logits.iter().enumerate() {
        if *logit > best.1 {
            best = (token, *logit);
        }
    }
    best.0 as u32
}

/// exp((logit − greatest) / temperature) of each token, those that vanish left out.
fn tempered(logits: &[f32], temperature: f64) -> Vec<(u32, f64)> {
    let greatest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let weight = |logit: f32| ((f64::from(logit) - greatest) / temperature).exp();
    let weights = logits
        .iter()
        .enumerate()
        .map(|(token, logit)| (token as u32, weight(*logit)));
    weights.filter(|(_, weight)| *weight > 0.0).collect()
}

/// The heavier one first; of equal ones the one with the smaller id.
fn heavier(a: &(u32, f64), b: &(u32, f64)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Keeps the `count` heaviest tokens, at least one.
fn keep_heaviest(weights: &mut Vec<(u32, f64)>, count: usize) {
    let count = count.max(1);
    if count < weights.len() {
        weights.select_nth_unstable_by(count, heavier);
        weights.truncate(count);
        // The order decides which token a random number means: it must not depend on how they were selected.
        weights.sort_unstable_by(heavier);
    }
}

/// Keeps the heaviest tokens until they weigh `mass` together, at least one.
fn keep_mass(weights: &mut Vec<(u32, f64)>, mass: f64) {
    // Sorting a whole vocabulary for each token would take longer than the head's product; a few hundred nearly always do.
    let mut sorted = 256.min(weights.len());
    loop {
        if sorted < weights.len() {
            weights.select_nth_unstable_by(sorted, heavier);
        }
        weights[..sorted].sort_unstable_by(heavier);
        let mut sum = 0.0;
        let enough = weights[..sorted].iter().position(|(_, weight)| {
            sum += weight;
            sum >= mass
        });
        let kept = enough.map_or(usize::MAX, |last| last + 1);
        if kept <= sorted || sorted == weights.len() {
            weights.truncate(kept.max(1));
            return;
        }
        sorted = (sorted * 8).min(weights.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f64, top_p: f64, top_k: Option<usize>) -> Sampling {
        Sampling {
            temperature,
            top_p,
            top_k,
            seed: Some(7),
        }
    }

    /// How often each of four tokens is chosen in 20,000 draws, with logits ln(1, 2, 3, 4).
    fn shares(sampling: Sampling) -> [f64; 4] {
        let logits = [1.0f32.ln(), 2.0f32.ln(), 3.0f32.ln(), 4.0f32.ln()];
        let mut sampler = Sampler::new(sampling);
        let mut counts = [0.0; 4];
        for _ in 0..20_000 {
            counts[sampler.choose(&logits) as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    fn near(found: [f64; 4], expected: [f64; 4]) {
        let far = found
            .iter()
            .zip(expected)
            .any(|(a, b)| (a - b).abs() > 0.015);
        assert!(!far, "{found:?}, expected {expected:?}");
    }

    #[test]
    fn tokens_come_as_often_as_they_are_likely() {
        near(shares(sampling(1.0, 1.0, None)), [0.1, 0.2, 0.3, 0.4]);
        near(
            shares(sampling(0.5, 1.0, None)),
            [1.0 / 30.0, 4.0 / 30.0, 9.0 / 30.0, 16.0 / 30.0],
        );
    }

    #[test]
    fn top_p_keeps_the_fewest_tokens_that_reach_it_and_top_k_so_many() {
        near(
            shares(sampling(1.0, 0.65, None)),
            [0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0],
        );
        near(
            shares(sampling(1.0, 0.75, None)),
            [0.0, 2.0 / 9.0, 3.0 / 9.0, 4.0 / 9.0],
        );
        near(
            shares(sampling(1.0, 1.0, Some(2))),
            [0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0],
        );
        near(shares(sampling(1.0, 1e-9, None)), [0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn top_p_is_a_part_of_what_top_k_leaves() {
        // Of 0.4 and 0.3 the first is 0.571 of both: 0.55 keeps it alone, though it is less than that of all.
        near(shares(sampling(1.0, 0.55, Some(2))), [0.0, 0.0, 0.0, 1.0]);
        // Of 0.4, 0.3 and 0.2 the first two are 0.778: 0.75 keeps two, though of all it would keep three.
        near(
            shares(sampling(1.0, 0.75, Some(3))),
            [0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0],
        );
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_likeliest() {
        let mut sampler = Sampler::new(sampling(0.0, 1.0, None));
        assert_eq!(sampler.choose(&[0.0, 3.0, 3.0, f32::NAN]), 1);
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens() {
        let logits: Vec<f32> = (0..1000)
            .map(|index| ((index * 37) % 101) as f32 / 25.0)
            .collect();
        let draw = || {
            let mut sampler = Sampler::new(sampling(1.0, 0.9, None));
            (0..50).map(|_| sampler.choose(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
        assert!(draw().windows(2).any(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_wide_nucleus_is_the_same_as_with_everything_sorted() {
        let logits: Vec<f32> = (0..5000)
            .map(|index| ((index * 7919) % 5000) as f32 / 5000.0)
            .collect();
        let mut found = tempered(&logits, 1.0);
        let mass = 0.7 * found.iter().map(|(_, weight)| weight).sum::<f64>();
        let mut expected = found.clone();
        expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut sum = 0.0;
        let cut = expected.iter().position(|(_, weight)| {
            sum += weight;
            sum >= mass
        });
        let kept = cut.unwrap() + 1;
        keep_mass(&mut found, mass);
        assert_eq!(found, expected[..kept]);
    }
}
