//! What a fresh adapter is to be.

use std::collections::BTreeMap;

/// The settings of PEFT's `LoraConfig` that say which parameters an adapter has and how they are scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraSettings {
    /// The rank r of A (r, in) and B (out, r).
    pub rank: i64,
    /// The numerator of the scale.
    pub alpha: i64,
    /// Other ranks for some modules, by a regular expression for the end of the full name.
    pub rank_pattern: BTreeMap<String, i64>,
    /// Other alphas for some modules, named in the same way.
    pub alpha_pattern: BTreeMap<String, i64>,
    /// Whether the scale is alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski, 2023).
    pub use_rslora: bool,
    /// Whether a magnitude for each output is trained beside the direction (DoRA, Liu et al., 2024).
    pub use_dora: bool,
    /// Module names, matched at the end of the full name; `all-linear` means every linear layer but the output head.
    pub target_modules: Vec<String>,
}

impl Default for LoraSettings {
    /// Rank 16, alpha 32, on all linear layers.
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            use_rslora: false,
            use_dora: false,
            target_modules: vec!["all-linear".to_owned()],
        }
    }
}
