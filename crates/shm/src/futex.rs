//! Sleeping on a word of shared memory.

use std::time::Duration;

use crate::sync::AtomicU32;

/// Sleeps while `word` has the value `expected`, until somebody wakes it, the timeout passes, or
/// for no reason at all. The kernel compares and goes to sleep in one step against [`wake`].
#[cfg(not(loom))]
pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(timeout.subsec_nanos() as i32),
    });
    // SAFETY: the kernel reads the word, which is mapped as long as the reference lives, and the
    // timeout, which outlives the call. Not FUTEX_PRIVATE: the waker is another process. Its
    // errors (value differs, timeout, signal) all mean "look again", which callers do.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            timeout
                .as_ref()
                .map_or(std::ptr::null(), std::ptr::from_ref),
        );
    }
}

/// Wakes everybody who sleeps on `word`. Never blocks.
#[cfg(not(loom))]
pub(crate) fn wake(word: &AtomicU32) {
    // SAFETY: the kernel only uses the word's address, which is mapped while the reference lives.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX);
    }
}

#[cfg(loom)]
pub(crate) use model::{wait, wake};

/// The kernel's promise, in the model checker's terms: comparing and queueing is one step
/// against waking.
#[cfg(loom)]
mod model {
    use super::{AtomicU32, Duration};
    use loom::sync::{Condvar, Mutex};

    loom::lazy_static! {
        static ref QUEUE: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
    }

    pub(crate) fn wait(word: &AtomicU32, expected: u32, _: Option<Duration>) {
        let guard = QUEUE.0.lock().expect("not poisoned");
        if word.load(crate::sync::Ordering::Relaxed) == expected {
            drop(QUEUE.1.wait(guard).expect("not poisoned"));
        }
    }

    pub(crate) fn wake(_: &AtomicU32) {
        let _guard = QUEUE.0.lock().expect("not poisoned");
        QUEUE.1.notify_all();
    }
}
