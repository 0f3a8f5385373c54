//! Placeholder during set-up.
fn main() {}
