//! Tasks on the threads that libtorch computes with.
//!
//! libtorch's operations run on the team of OpenMP (libgomp) that belongs to the calling thread. A loop of ours runs on the same
//! team: threads beside it would compete for the processors that it keeps, and to start one takes longer than most loops. Nothing
//! in here knows what a task does, and no result may depend on which thread took it.

use std::any::Any;
use std::ffi::{c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::vec::IntoIter;

/// Runs each task once, on as many threads as libtorch has; one task, or all on one thread, on the caller's. A panic of a task
/// becomes the caller's once all threads have ended.
pub(crate) fn run_all<T: Send, F: Fn(T) + Sync>(tasks: Vec<T>, run: F) {
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
    let threads = threads.min(tasks.len());
    if threads <= 1 {
        tasks.into_iter().for_each(run);
        return;
    }
    let team = Team {
        tasks: Mutex::new(tasks.into_iter()),
        run,
        panic: Mutex::new(None),
    };
    match openmp() {
        Some(parallel) => {
            // SAFETY: `member::<T, F>` is given a pointer to a team of just these types, which lives until the call returns, and
            // by then no thread uses it any more.
            #[expect(unsafe_code, reason = "a function of C")]
            unsafe {
                let team = (&raw const team).cast_mut().cast();
                parallel(member::<T, F>, team, threads as c_uint, 0);
            }
        }
        None => std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| team.work());
            }
            team.work();
        }),
    }
    let panic = team.panic.into_inner();
    if let Some(panic) = panic.unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(panic);
    }
}

/// What the threads of one call share.
struct Team<T, F> {
    tasks: Mutex<IntoIter<T>>,
    run: F,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl<T, F: Fn(T)> Team<T, F> {
    /// Takes one task after the other until none is left. It never unwinds: libgomp could not.
    fn work(&self) {
        loop {
            let task = locked(&self.tasks, Iterator::next);
            let Some(task) = task else { return };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.run)(task))) {
                locked(&self.panic, |first| {
                    first.get_or_insert(panic);
                });
            }
        }
    }
}

fn locked<T, R>(mutex: &Mutex<T>, take: impl FnOnce(&mut T) -> R) -> R {
    take(&mut mutex.lock().unwrap_or_else(PoisonError::into_inner))
}

/// What each thread of the team runs.
#[expect(unsafe_code, reason = "a function for C")]
unsafe extern "C" fn member<T, F: Fn(T)>(team: *mut c_void) {
    // SAFETY: `run_all` passes a `Team<T, F>` that outlives the call; it is shared, never lent to be written.
    let team = unsafe { &*team.cast::<Team<T, F>>() };
    team.work();
}

/// `GOMP_parallel` of GCC's `libgomp`: calls `body(data)` on this many threads of the caller's team, of which the caller is one, and
/// returns once all have ended (<https://gcc.gnu.org/onlinedocs/libgomp/Implementing-PARALLEL-construct.html>).
type Parallel = unsafe extern "C" fn(
    body: unsafe extern "C" fn(*mut c_void),
    data: *mut c_void,
    threads: c_uint,
    flags: c_uint,
);

/// The function as the process has it by libtorch; `None` where libtorch computes with other threads.
fn openmp() -> Option<Parallel> {
    static FOUND: OnceLock<Option<Parallel>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // SAFETY: the name ends in a NUL, and what libgomp calls so has this signature since GCC 4.9.
        #[expect(unsafe_code, reason = "a function of C, found by its name")]
        unsafe {
            let found = libc::dlsym(libc::RTLD_DEFAULT, c"GOMP_parallel".as_ptr());
            (!found.is_null()).then(|| std::mem::transmute::<*mut c_void, Parallel>(found))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_number_of_threads() {
        for count in [0, 1, 2, 1000] {
            let seen = Mutex::new(BTreeSet::new());
            run_all((0..count).collect(), |task: usize| {
                assert!(seen.lock().unwrap().insert(task));
            });
            assert_eq!(seen.into_inner().unwrap().len(), count);
        }
    }

    #[test]
    fn a_panic_of_a_task_is_the_callers_once_the_others_have_run() {
        let ran = AtomicUsize::new(0);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            run_all((0..100).collect(), |task: usize| {
                ran.fetch_add(1, Ordering::Relaxed);
                assert_ne!(task, 7, "the seventh");
            });
        }));
        assert!(caught.is_err());
        if tch::get_num_threads() > 1 {
            assert_eq!(ran.load(Ordering::Relaxed), 100);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn libtorch_brings_the_threads_that_loops_run_on() {
        let _ = tch::get_num_threads();
        assert!(openmp().is_some());
    }
}
