//! Threads of this project's own, in whatever process.
//!
//! Laws:
//! - No thread is taken for granted. Limits on them (`RLIMIT_NPROC`, `pids.max`) are met at any moment of a
//!   process's life, and an error says so; nothing panics for want of one.
//! - A library's threads leave the process's signals to the process: they block all but those that a
//!   thread causes itself.

use std::io;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

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

/// Starts a thread with this name, of which the system shows the first 15 bytes.
///
/// # Errors
/// [`NoThread`]; `body` is dropped then.
pub fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, NoThread> {
    named(name.into(), |builder| builder.spawn(body))
}

/// As [`spawn`], for a thread that ends within a scope.
///
/// # Errors
/// [`NoThread`]; `body` is dropped then.
pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: impl Into<String>,
    body: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, NoThread> {
    named(name.into(), |builder| builder.spawn_scoped(scope, body))
}

fn named<T>(name: String, spawn: impl FnOnce(Builder) -> io::Result<T>) -> Result<T, NoThread> {
    // A thread has from its first moment the mask of the one that starts it.
    let before = foreign_signals().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let spawned = spawn(Builder::new().name(name.clone()));
    if let Ok(before) = before {
        // Both calls fail only for arguments that these are not.
        let _ = before.thread_set_mask();
    }
    spawned.map_err(|error| NoThread { name, error })
}

/// Runs a call that makes a file larger, in whatever thread. Where that goes beyond `RLIMIT_FSIZE`, the call
/// fails with `EFBIG`, and the signal that would end the process, for which a library has no handler, is
/// taken away.
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
        // SAFETY: set and time are valid during the call, and nothing is to be told of the signal. Nobody
        // else takes it: the kernel has sent it to this thread, which blocks it.
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
    // SAFETY: both places are valid during the call. It fails for sets that name what is no signal; this
    // one is made of signals.
    while unsafe { libc::sigwait(signals.as_ref(), &raw mut taken) } != 0 {}
    taken
}

fn is_pending(signal: Signal) -> bool {
    let mut pending = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the call fills the set, and is not asked what is in it where it does not.
    unsafe {
        libc::sigpending(pending.as_mut_ptr()) == 0
            && libc::sigismember(pending.as_ptr(), signal as i32) == 1
    }
}

/// Every signal but those that tell a thread of its own fault. To block these would end the process
/// without a word of why.
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

/// What a thread is refused with where the system gives this error.
#[cfg(test)]
pub(crate) fn spawn_failing(errno: nix::errno::Errno) -> NoThread {
    let refused = named::<()>("chimaera-test".to_owned(), |_| Err(errno.into()));
    refused.expect_err("refused")
}

#[cfg(test)]
mod tests {
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
        // One that was there before is somebody else's.
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
        let error = io::Error::from(spawn_failing(nix::errno::Errno::EAGAIN));
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        for word in ["chimaera-test", "ulimit -u", "pids.max", "ulimit -v"] {
            assert!(error.to_string().contains(word), "{word} in: {error}");
        }
    }
}
