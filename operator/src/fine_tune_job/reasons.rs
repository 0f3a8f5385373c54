//! Why something is as it is: a reason with its message, and the reasons that more than one step of the reconcile knows.

/// A reason for machines and a message for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cause {
    /// One word.
    pub reason: String,
    /// A sentence or two: what, and the cure.
    pub message: String,
}

impl Cause {
    pub(super) fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// The reason of a pod that is on its way: nothing to worry about.
pub const STARTING: &str = "Starting";
/// The reason of a Job whose last pod has ended: what comes of it is known in a moment.
pub const ENDING: &str = "Ending";
/// The reason of a Job that its queue holds back.
pub const SUSPENDED: &str = "Suspended";
/// The reason of a name that what an earlier FineTuneJob left still has: it goes by itself.
pub const LEFTOVER: &str = "EarlierJobTerminating";
/// The reason of an attempt whose pod was gone before its end was seen.
pub const LOST: &str = "Lost";
