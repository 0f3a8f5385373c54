//! What the CPU sides of the operations share: memory as slices, threads, loops for each width of registers, products.
//!
//! Nothing in here knows what is computed. An operation's own loops stand in its `cpu.rs`.

pub(crate) mod brgemm;
pub(crate) mod instructions;
pub(crate) mod kernel;
pub(crate) mod lanes;
pub(crate) mod matmul;
pub(crate) mod memory;
pub(crate) mod panel;
pub(crate) mod product;
pub(crate) mod rows;
pub(crate) mod threads;
pub(crate) mod tile;
pub(crate) mod widening_product;
