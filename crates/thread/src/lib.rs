//! Threads of this project's own, in whatever process: starting them, locks and condition variables for them
//! ([`condition`]), processes whose threads do not go on ([`standstill`]), and how much memory a process can have.
//!
//! Laws:
//! - No thread is taken for granted. A process may meet a limit on threads (`RLIMIT_NPROC`, `pids.max`) at any moment;
//!   that is an error with a text, never a panic, and so is a lack of address space for a new thread (`start.rs`).
//! - A library's threads leave the process's signals to the process: they block all signals but those that a thread
//!   causes itself.

pub mod condition;
pub mod flocks;
mod heaps;
mod memory;
pub mod standstill;
mod start;

use std::cell::Cell;
use std::io;
use std::sync::Arc;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

pub use heaps::share_heap_where_memory_is_limited;
pub use memory::available_bytes;
pub use start::{JoinHandle, Scope, ScopedJoinHandle, scope, spawn, spawn_scoped};

/// The system gave no thread.
#[derive(Debug, thiserror::Error)]
#[error(
    "the system gives no thread for {name} ({error}): a limit on processes (`ulimit -u`, `pids.max` of \
     the control group) or on memory (`ulimit -v`) is reached; raise it"
)]
pub struct NoThread {
    name: String,
    error: io::Error,
}

impl From<NoThread> for io::Error {
    fn from(refused: NoThread) -> Self {
        Self::new(refused.error.kind(), refused)
    }
}

impl NoThread {
    /// A refusal for this reason of a thread with this name.
    pub fn new(name: impl Into<String>, error: io::Error) -> Self {
        let name = name.into();
        Self { name, error }
    }
}

thread_local! {
    static NAME: Cell<Option<Arc<str>>> = const { Cell::new(None) };
}

/// The whole name of the calling thread, if the standard library or [`spawn`] (of this library's copy of the crate)
/// gave it one.
#[must_use]
pub fn name() -> Option<String> {
    let given = NAME.try_with(|name| {
        let given = name.take();
        name.set(given.clone());
        given
    });
    match given {
        Ok(Some(name)) => Some(name.to_string()),
        _ => std::thread::current().name().map(str::to_owned),
    }
}

/// Runs `start` with all foreign signals blocked: a new thread inherits the mask of the thread that starts it.
fn with_foreign_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    let before = foreign_signals().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let started = start();
    if let Ok(before) = before {
        // Both calls fail only for arguments that these are not.
        let _ = before.thread_set_mask();
    }
    started
}

/// Runs a call that makes a file larger, in whatever thread. Beyond `RLIMIT_FSIZE` the call fails with `EFBIG`, and the
/// kernel sends SIGXFSZ, which would end the process as a library has no handler for it: this takes the signal away.
pub fn without_file_size_signal<T>(action: impl FnOnce() -> T) -> T {
    let mut signal = SigSet::empty();
    signal.add(Signal::SIGXFSZ);
    let was_pending = is_pending(Signal::SIGXFSZ);
    let before = signal.thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let result = action();
    if !was_pending {
        let no_time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: set and time are valid during the call, which stores nothing about the signal. No other thread takes
        // it: the kernel has sent it to this one, which blocks it.
        unsafe { libc::sigtimedwait(signal.as_ref(), std::ptr::null_mut(), &raw const no_time) };
    }
    if let Ok(before) = before {
        // It fails only for arguments that these are not.
        let _ = before.thread_set_mask();
    }
    result
}

/// Waits for one of these signals, which this thread blocks, and takes it. Gives its number: real-time signals
/// have no names.
#[must_use]
pub fn take_signal(signals: &SigSet) -> i32 {
    let mut taken = 0;
    // SAFETY: both places are valid during the call. It fails only for a set that names a number which is no signal;
    // this one is made of signals.
    while unsafe { libc::sigwait(signals.as_ref(), &raw mut taken) } != 0 {}
    taken
}

/// Ends the process at once with this exit code. Nothing else of the program runs, no handler that was registered for
/// the end and no destructor: a thread that hangs may hold what these need.
pub fn end_process(code: u8) -> ! {
    // SAFETY: the call ends every thread, and so nothing is used after it.
    unsafe { libc::_exit(code.into()) }
}

fn is_pending(signal: Signal) -> bool {
    let mut pending = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the call fills the set, which is read only where the call has succeeded.
    unsafe {
        libc::sigpending(pending.as_mut_ptr()) == 0
            && libc::sigismember(pending.as_ptr(), signal as i32) == 1
    }
}

/// Every signal but those that report a thread's own fault. If those were blocked, such a fault would end the process
/// without the program's handler having run.
#[must_use]
pub fn foreign_signals() -> SigSet {
    let mut signals = SigSet::all();
    for own in [
        Signal::SIGABRT,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGSEGV,
        Signal::SIGSYS,
        Signal::SIGTRAP,
    ] {
        signals.remove(own);
    }
    signals
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_thread_blocks_the_signals_of_others_and_its_starter_blocks_none_for_it() {
        let before = SigSet::thread_get_mask().expect("a mask");
        let inside = spawn("chimaera-test", || {
            SigSet::thread_get_mask().expect("a mask")
        });
        let inside = inside.expect("a thread").join().expect("no panic");
        for blocked in [
            Signal::SIGTERM,
            Signal::SIGXFSZ,
            Signal::SIGUSR1,
            Signal::SIGHUP,
        ] {
            assert!(inside.contains(blocked), "{blocked}");
        }
        for open in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGABRT] {
            assert!(!inside.contains(open), "{open}");
        }
        assert_eq!(SigSet::thread_get_mask().expect("a mask"), before);
    }

    #[test]
    fn a_call_that_makes_a_file_too_large_leaves_no_signal_behind() {
        let raise = || {
            // As the kernel does: to this thread.
            nix::sys::signal::raise(Signal::SIGXFSZ).expect("sent");
            assert!(is_pending(Signal::SIGXFSZ));
        };
        without_file_size_signal(raise);
        assert!(!is_pending(Signal::SIGXFSZ));
        // A signal that was pending before is somebody else's.
        let mut signal = SigSet::empty();
        signal.add(Signal::SIGXFSZ);
        signal.thread_block().expect("blocked");
        raise();
        without_file_size_signal(|| {});
        assert!(is_pending(Signal::SIGXFSZ));
        without_file_size_signal(raise);
        assert!(is_pending(Signal::SIGXFSZ));
    }

    #[test]
    fn a_refusal_names_the_thread_and_the_limits() {
        let error = io::Error::from(NoThread::new(
            "chimaera-test",
            nix::errno::Errno::EAGAIN.into(),
        ));
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        for word in ["chimaera-test", "ulimit -u", "pids.max", "ulimit -v"] {
            assert!(error.to_string().contains(word), "{word} in: {error}");
        }
    }

    #[test]
    fn a_thread_gives_what_it_came_to_and_has_its_name() {
        let thread = spawn("chimaera-with-a-long-name", || {
            let shown = std::fs::read_to_string("/proc/thread-self/comm").expect("a name");
            (name(), shown)
        });
        let thread = thread.expect("a thread");
        assert_eq!(thread.name(), "chimaera-with-a-long-name");
        assert!(!thread.is_current());
        let (whole, shown) = thread.join().expect("no panic");
        assert_eq!(whole.as_deref(), Some("chimaera-with-a-long-name"));
        assert_eq!(shown, "chimaera-with-a\n");
    }

    #[test]
    fn a_panic_is_given_to_whoever_joins() {
        let thread = spawn("chimaera-test", || std::panic::resume_unwind(Box::new(7)));
        let panic: std::thread::Result<()> = thread.expect("a thread").join();
        assert_eq!(panic.expect_err("a panic").downcast_ref(), Some(&7));
    }

    #[test]
    fn a_thread_whose_handle_is_dropped_goes_on() {
        let (go_on, told) = std::sync::mpsc::channel::<()>();
        let (done, is_done) = std::sync::mpsc::channel();
        let body = move || {
            let _ = told.recv();
            let _ = done.send(());
        };
        drop(spawn("chimaera-test", body).expect("a thread"));
        go_on.send(()).expect("it is there");
        is_done.recv().expect("it went on");
    }

    #[test]
    fn a_scope_ends_after_its_threads_though_nobody_joins_and_though_it_panics() {
        /// Counts its drop, which is the last use of what the thread borrows.
        struct CountsDrop<'a>(&'a AtomicUsize);
        impl Drop for CountsDrop<'_> {
            fn drop(&mut self) {
                std::thread::yield_now();
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        for panics in [false, true] {
            let dropped = AtomicUsize::new(0);
            let counted = &dropped;
            let run = || {
                scope(|scope| {
                    for _ in 0..8 {
                        let inside = CountsDrop(counted);
                        let give = move || {
                            let _inside = inside;
                            CountsDrop(counted)
                        };
                        drop(spawn_scoped(scope, "chimaera-test", give).expect("a thread"));
                    }
                    if panics {
                        std::panic::resume_unwind(Box::new(()));
                    }
                });
            };
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            assert_eq!(result.is_err(), panics);
            assert_eq!(dropped.load(Ordering::Relaxed), 16);
        }
    }
}
