//! What operator and trainer say to each other: progress, outcome, exit codes, and the names of what lies in object
//! storage.
//!
//! The manifest goes in, these come out. Nothing here does I/O.

pub mod exit_code;
pub mod golden;
pub mod layout;
pub mod outcome;
pub mod progress;
pub mod termination_message;

pub use exit_code::ExitCode;
pub use golden::Golden;
pub use outcome::{Outcome, OutcomeReason, Published, Stage};
pub use progress::{Progress, RunPhase};
