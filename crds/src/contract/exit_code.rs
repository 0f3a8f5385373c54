//! The trainer's exit codes, which the Job's pod failure policy reads.

/// How a trainer process ended. The numbers keep clear of those of shells (1, 2, 126 and up), clap (2) and panics (101).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything was done.
    Done = 0,
    /// A fault that another try may mend: the network, the store, a lost claim.
    Retry = 1,
    /// The manifest, the data or the base is at fault; another try would end the same way.
    InvalidInput = 10,
    /// Told to stop; a checkpoint was written first. Costs no retry.
    Preempted = 11,
    /// The device's memory does not suffice; the message says what to change.
    OutOfMemory = 12,
    /// The loss is no longer a number.
    Diverged = 13,
}

impl ExitCode {
    /// Codes after which the Job must not try again.
    pub const FINAL: [Self; 3] = [Self::InvalidInput, Self::OutOfMemory, Self::Diverged];

    /// The code as the operating system sees it.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::ExitCode;

    #[test]
    fn codes_keep_clear_of_shells_and_panics() {
        for code in ExitCode::FINAL.into_iter().chain([ExitCode::Preempted]) {
            assert!(
                (3..100).contains(&code.code()),
                "{code:?} is {}",
                code.code()
            );
        }
    }
}
