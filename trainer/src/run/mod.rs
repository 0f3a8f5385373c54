//! What a run is made of: what it needs from outside, what it works on, what it plans and what it trains.
//!
//! `train` tells how these become a result; other commands take of them what they need.

pub(crate) mod inputs;
pub mod plan;
pub mod trainee;

use crate::job::Job;
use crate::progress::Reporter;
use crate::stop::Stop;
use crate::workplace::Workplace;

/// What a run needs from outside.
#[derive(Clone, Copy)]
pub struct Run<'run> {
    /// What to do.
    pub job: &'run Job,
    /// Where.
    pub place: &'run Workplace,
    /// Who is told of it.
    pub reporter: &'run Reporter,
    /// Who may end it early.
    pub stop: &'run Stop,
    /// Who claims the attempt: a pod or host, and a process.
    pub holder: &'run str,
    /// The clock, for what people read; nothing is decided by it.
    pub now: fn() -> jiff::Timestamp,
}
