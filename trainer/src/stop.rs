//! The wish of the outside that the process end: SIGTERM from the kubelet, SIGINT from a person.
//!
//! The first process of a container is not ended by a signal that it does not listen to, so every command listens. Where
//! something must be finished first, such as a checkpoint or the answers of a server, the command looks after that itself.
//! At any other time the process ends at once, in the middle of whatever it computes.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::SignalKind;
use tokio::sync::watch;

/// How long a command has to come to an end that leaves no temporary files behind, before the process ends under it. What
/// computes cannot be left at any line.
const PATIENCE: Duration = Duration::from_secs(1);

/// What told the process to stop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
}

impl Signal {
    /// The exit code of a process that a signal ended, as shells count it.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Terminate => 128 + 15,
            Self::Interrupt => 128 + 2,
        }
    }

    const fn kind(self) -> SignalKind {
        match self {
            Self::Terminate => SignalKind::terminate(),
            Self::Interrupt => SignalKind::interrupt(),
        }
    }
}

/// Whether the process was told to stop; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    told: Option<Signal>,
    /// Whether the command ends the process itself once it has finished what it must.
    finishes_first: bool,
}

impl State {
    fn ends_at_once(self) -> Option<Signal> {
        self.told.filter(|_| !self.finishes_first)
    }
}

impl Stop {
    /// Listens to the signals from now on. `last_words` leaves word of why the process ends and gives its exit code; it is
    /// called where the command cannot be waited for.
    pub fn listen(
        last_words: impl Fn(Signal) -> u8 + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let stop = Self::default();
        let last_words = Arc::new(last_words);
        for kind in [Signal::Terminate, Signal::Interrupt] {
            let mut signals = tokio::signal::unix::signal(kind.kind())?;
            let (stop, last_words) = (stop.clone(), Arc::clone(&last_words));
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    let ends_at_once = stop.tell(kind);
                    tracing::info!("told to stop");
                    if ends_at_once {
                        let (stop, last_words) = (stop.clone(), Arc::clone(&last_words));
                        // A thread: the runtime may be going down already.
                        std::thread::spawn(move || {
                            std::thread::sleep(PATIENCE);
                            // It may have reached what must be finished in the meantime.
                            if stop.state.borrow().ends_at_once().is_some() {
                                leave(last_words(kind));
                            }
                        });
                    }
                }
            });
        }
        Ok(stop)
    }

    /// Takes a signal in, and returns whether the process shall end at once.
    fn tell(&self, signal: Signal) -> bool {
        let mut ends_at_once = false;
        self.state.send_modify(|state| {
            state.told = state.told.or(Some(signal));
            ends_at_once = state.ends_at_once().is_some();
        });
        ends_at_once
    }

    /// From now on the command looks at [`Self::is_told`] and ends by itself.
    pub fn finish_first(&self) {
        self.state.send_modify(|state| state.finishes_first = true);
    }

    /// From now on there is nothing to finish. Returns whether the process was told to stop meanwhile, which the caller acts
    /// upon.
    #[must_use]
    pub fn end_at_once(&self) -> bool {
        self.state.send_modify(|state| state.finishes_first = false);
        self.is_told()
    }

    /// Whether it was told.
    pub fn is_told(&self) -> bool {
        self.state.borrow().told.is_some()
    }

    /// Waits until it is told.
    pub async fn told(&self) {
        self.wait(|state| state.told).await;
    }

    /// The result of `work`; or the signal, where one comes while there is nothing to finish.
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Result<T, Signal> {
        tokio::select! {
            biased;
            result = work => Ok(result),
            signal = self.wait(State::ends_at_once) => Err(signal),
        }
    }

    async fn wait(&self, what: impl Fn(State) -> Option<Signal>) -> Signal {
        let mut state = self.state.subscribe();
        loop {
            if let Some(signal) = what(*state.borrow_and_update()) {
                return signal;
            }
            if state.changed().await.is_err() {
                // The sender lives as long as `self`.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Ends the process now, without running what is registered for its end: other threads compute, with libraries that this
/// would take apart under them.
#[expect(unsafe_code, reason = "the standard library has no such call")]
fn leave(code: u8) -> ! {
    // SAFETY: `_exit` takes any number, touches no memory and does not return.
    unsafe { libc::_exit(i32::from(code)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_left_only_while_nothing_is_to_be_finished() {
        let stop = Stop::default();
        stop.finish_first();
        assert!(!stop.tell(Signal::Terminate));
        assert!(stop.is_told());
        // The signal is there, and yet what must be finished is.
        let work = async {
            tokio::task::yield_now().await;
            7
        };
        assert_eq!(stop.or(work).await, Ok(7));
        assert!(stop.end_at_once());
        let endless = std::future::pending::<()>();
        assert_eq!(stop.or(endless).await, Err(Signal::Terminate));
    }

    #[tokio::test]
    async fn the_first_signal_counts() {
        let stop = Stop::default();
        assert!(stop.tell(Signal::Interrupt));
        assert!(stop.tell(Signal::Terminate));
        assert_eq!(
            stop.or(std::future::pending::<()>()).await,
            Err(Signal::Interrupt)
        );
    }
}
