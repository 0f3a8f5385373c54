//! What the CPU sides of the operations share: memory as slices, threads, loops for each width of registers, tiles of
//! products.
//!
//! Nothing in here knows what is computed. An operation's own loops stand in its `cpu.rs`.

pub(crate) mod brgemm;
pub(crate) mod instructions;
pub(crate) mod kernel;
pub(crate) mod lanes;
pub(crate) mod memory;
pub(crate) mod threads;
pub(crate) mod tile;
