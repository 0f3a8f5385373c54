//! Which rows are trained on and which are validated with: some are held back, by a hash of their content. Pure.
//!
//! The same row is always on the same side, whatever stands around it, so that a grown data set never moves a row from
//! validation into training. It must never look at the order of rows.

use std::collections::HashSet;

use finetune_artifacts::rows::Row;

/// The rows on both sides.
pub(super) struct Split<'rows> {
    pub(super) train: Vec<&'rows Row>,
    pub(super) validation: Vec<&'rows Row>,
    /// Of the content of all rows.
    pub(super) hashes: HashSet<[u8; 32]>,
    /// Rows to train on whose content was there before.
    pub(super) duplicates: usize,
    /// Rows to validate with that are trained on too.
    pub(super) leaked: usize,
}

impl<'rows> Split<'rows> {
    /// Holds `fraction` of the rows of `train` back, behind those of `validation`, which have files of their own.
    pub(super) fn of(train: &'rows [Row], validation: &'rows [Row], fraction: Option<f64>) -> Self {
        let hashes: Vec<[u8; 32]> = train.iter().map(|row| row.content.hash()).collect();
        let held = match fraction {
            Some(fraction) => held_back(&hashes, fraction),
            None => vec![false; hashes.len()],
        };
        let mut seen = HashSet::new();
        let mut result = Self {
            train: Vec::new(),
            validation: validation.iter().collect(),
            hashes: HashSet::new(),
            duplicates: 0,
            leaked: 0,
        };
        for ((row, hash), held) in train.iter().zip(&hashes).zip(held) {
            if held {
                result.validation.push(row);
            } else {
                result.train.push(row);
                result.duplicates += usize::from(!seen.insert(*hash));
            }
        }
        let leaked = |row: &&Row| seen.contains(&row.content.hash());
        result.leaked = validation.iter().filter(leaked).count();
        let validation = result.validation.iter().map(|row| row.content.hash());
        result.hashes = seen.into_iter().chain(validation).collect();
        result
    }
}

/// For each hash, whether its row is held back. About `fraction` of the rows are; at least those with the least hash
/// are, as long as others are left to train on.
fn held_back(hashes: &[[u8; 32]], fraction: f64) -> Vec<bool> {
    let held: Vec<bool> = hashes.iter().map(|hash| place(hash) < fraction).collect();
    if held.contains(&true) {
        return held;
    }
    let Some(least) = hashes.iter().min() else {
        return held;
    };
    if hashes.iter().all(|hash| hash == least) {
        return held;
    }
    hashes.iter().map(|hash| hash == least).collect()
}

/// Where a hash lies between 0 and 1.
fn place(hash: &[u8; 32]) -> f64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    // 2^-53 is the spacing of floats below 1: 53 bits convert exactly, so the result stays below 1.
    (u64::from_be_bytes(first) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::held_back;

    fn hashes(count: u32) -> Vec<[u8; 32]> {
        (0..count)
            .map(|i| Sha256::digest(i.to_le_bytes()).into())
            .collect()
    }

    #[test]
    fn a_row_stays_on_its_side_when_rows_are_added_or_reordered() {
        let all = hashes(2000);
        let whole = held_back(&all, 0.1);
        let part = held_back(&all[500..], 0.1);
        assert_eq!(whole[500..], part);
        let mut reversed = all.clone();
        reversed.reverse();
        let mut sides = held_back(&reversed, 0.1);
        sides.reverse();
        assert_eq!(whole, sides);
    }

    #[test]
    fn about_the_wanted_share_is_held_back() {
        let held = held_back(&hashes(10_000), 0.1);
        let count = held.iter().filter(|held| **held).count();
        assert!((900..1100).contains(&count), "{count}");
    }

    #[test]
    fn a_greater_fraction_holds_back_the_same_rows_and_more() {
        let all = hashes(1000);
        let (small, large) = (held_back(&all, 0.1), held_back(&all, 0.3));
        assert!(
            small
                .iter()
                .zip(&large)
                .all(|(small, large)| !small || *large)
        );
    }

    #[test]
    fn a_tiny_set_holds_back_one_row_and_a_single_row_is_trained_on() {
        let held = held_back(&hashes(5), 0.001);
        assert_eq!(held.iter().filter(|held| **held).count(), 1);
        assert_eq!(held_back(&hashes(1), 0.001), [false]);
    }
}
