//! What the forward of one head's queries of one document reads and writes.

use super::{AttentionSettings, Part};
use crate::ops::cpu::memory::Planes;

/// The task.
pub(super) struct Forward<'a, T> {
    pub(super) part: Part,
    pub(super) settings: AttentionSettings,
    /// (B, heads, T, D).
    pub(super) queries: Planes<'a, T>,
    /// (B, key heads, S, D).
    pub(super) keys: Planes<'a, T>,
    pub(super) values: Planes<'a, T>,
    /// The part's rows (queries, D).
    pub(super) output: &'a mut [T],
    /// One of each query.
    pub(super) log_sums: &'a mut [f32],
}
