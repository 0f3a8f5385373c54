//! Finds texts that are nearly the same: their runs of characters, white space and punctuation aside, are mostly those of
//! another text.
//!
//! The measure is Jaccard's: runs in both, divided by runs in either. Texts that are equal count as near too; the caller
//! knows which are.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Characters of a run.
const RUN: usize = 6;
/// The share of runs from which on two texts are nearly the same.
const NEAR: f64 = 0.9;
/// How many runs of a text are looked up first: those with the least hashes.
const SAMPLE: usize = 16;
/// How many of them must be in another text before it is compared in full. At a measure of 0.9 about 95 % of them are.
const SHARED: usize = 8;

/// Texts against which others are compared.
#[derive(Debug, Default)]
pub(super) struct Texts {
    runs: Vec<HashSet<u64>>,
    /// The texts that have a run in their sample.
    samples: HashMap<u64, Vec<usize>>,
    sizes: Vec<usize>,
}

impl Texts {
    /// The texts, by their place.
    pub(super) fn new<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Self {
        let mut all = Self::default();
        for (index, text) in texts.into_iter().enumerate() {
            let runs = runs(text.as_ref());
            let mut sample: Vec<u64> = runs.iter().copied().collect();
            sample.sort_unstable();
            sample.truncate(SAMPLE);
            all.sizes.push(sample.len());
            for run in sample {
                all.samples.entry(run).or_default().push(index);
            }
            all.runs.push(runs);
        }
        all
    }

    /// The places of the texts that are nearly `text`, in order.
    pub(super) fn near(&self, text: &str) -> Vec<usize> {
        let runs = runs(text);
        let mut shared: HashMap<usize, usize> = HashMap::new();
        for index in runs
            .iter()
            .filter_map(|run| self.samples.get(run))
            .flatten()
        {
            *shared.entry(*index).or_default() += 1;
        }
        let mut near: Vec<usize> = shared
            .into_iter()
            .filter(|(index, count)| *count * SAMPLE >= self.sizes[*index] * SHARED)
            .map(|(index, _)| index)
            .filter(|index| similarity(&self.runs[*index], &runs) >= NEAR)
            .collect();
        near.sort_unstable();
        near
    }
}

fn similarity(left: &HashSet<u64>, right: &HashSet<u64>) -> f64 {
    let both = left.intersection(right).count();
    let either = left.len() + right.len() - both;
    both as f64 / either.max(1) as f64
}

/// The hashes of all runs of letters and digits, in lower case. A shorter text is one run.
fn runs(text: &str) -> HashSet<u64> {
    let letters: Vec<char> = text
        .chars()
        .filter(|character| character.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect();
    let hash = |run: &[char]| {
        let mut hasher = DefaultHasher::new();
        run.hash(&mut hasher);
        hasher.finish()
    };
    match letters.len() {
        0 => HashSet::new(),
        length if length < RUN => HashSet::from([hash(&letters)]),
        _ => letters.windows(RUN).map(hash).collect(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const TEXT: &str = "The warranty of the lamp is five years. The store in the old town opens at nine and closes at half past \
        five. Returns are free within thirty days; the shipping is four euros and ninety cents, and to the islands it is seven.";

    #[rstest]
    #[case::the_same(TEXT.to_owned(), true)]
    #[case::other_case_and_spaces(TEXT.to_uppercase().replace(' ', "\n"), true)]
    #[case::a_word_changed(TEXT.replace("five years", "six years"), true)]
    #[case::cut_in_half(TEXT[..TEXT.len() / 2].to_owned(), false)]
    #[case::another(TEXT.chars().rev().collect(), false)]
    #[case::nothing(" .".to_owned(), false)]
    fn a_text_is_near_if_most_of_it_is_the_same(#[case] other: String, #[case] near: bool) {
        let texts = Texts::new(["something else", TEXT, ""]);
        assert_eq!(texts.near(&other), if near { vec![1] } else { vec![] });
    }

    #[test]
    fn short_texts_are_near_only_if_they_are_equal() {
        let texts = Texts::new(["q1 a1", "q2 a2"]);
        assert_eq!(texts.near("q2 a2!"), [1]);
        assert_eq!(texts.near("q3 a3"), [0; 0]);
    }

    #[test]
    fn texts_without_spaces_are_compared_too() {
        let texts =
            Texts::new(["今日は星期三です、東京の天気は晴れ、気温は二十度くらいでしょう。"]);
        let near = "今日は星期三です、東京の天気は晴れ、気温は二十度くらいでしょうね。";
        assert_eq!(texts.near(near), [0]);
    }
}
