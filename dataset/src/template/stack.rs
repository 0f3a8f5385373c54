//! Stacks on which templates are parsed and run. Both go as deep as a template wants: into chains of operators, and into lists
//! within lists that it makes. A stack that overflows ends the process.
//!
//! A stack is address space: memory is taken as far as it is used.

use std::cell::Cell;
use std::io;
use std::thread::Builder;

/// To parse a template. A chain takes one byte of the source a level, and a level 0.5 KiB of stack (1 KiB for `elif`, of nine bytes).
pub(super) const TO_PARSE: usize = super::LONGEST_SOURCE * 4096;

/// To run a template with so much fuel. A list within a list takes 1.5 fuel; to drop it takes 0.1 KiB of stack, to print or to
/// compare it 0.5 KiB. From two million fuel on, which only long conversations have, the stack suffices to drop what can be made,
/// not to compare it.
pub(super) fn to_run(fuel: u64) -> usize {
    const MOST: u64 = 1 << 30;
    (fuel * 512).min(MOST) as usize
}

/// What callers use beside the templates.
const OTHERS: usize = 2 << 20;

thread_local! {
    /// What this thread was started with.
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

/// Does `work` where so many bytes of stack are free: here, if this thread was started for it, else on a thread of its own. An error
/// means that none can be started.
pub(super) fn with<T: Send>(bytes: usize, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    if BYTES.get() >= bytes {
        return Ok(work());
    }
    std::thread::scope(|scope| {
        let builder = Builder::new().stack_size(bytes + OTHERS);
        let thread = builder.spawn_scoped(scope, || {
            BYTES.set(bytes);
            work()
        })?;
        match thread.join() {
            Ok(done) => Ok(done),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
