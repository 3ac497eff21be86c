//! System calls that are refused, as a sandbox or a container's profile does.

use std::io;
use std::thread;

use libc::{c_long, sock_filter};

/// Where the filter finds the number of the system call, and the lower half of its first argument.
const NUMBER_OFFSET: u32 = 0;
const FIRST_ARGUMENT_OFFSET: u32 = 16;

/// System calls that are to fail. Once it is applied to a thread, nothing takes it away again: neither there nor in
/// what the thread starts from then on.
#[derive(Clone)]
pub struct SystemCallFilter {
    steps: Vec<sock_filter>,
}

impl SystemCallFilter {
    /// Has these calls fail with this error.
    #[must_use]
    pub fn refusing(calls: &[c_long], errno: i32) -> Self {
        let refuse = |&call| [load(NUMBER_OFFSET), unless(call as u32, 1), fail(errno)];
        Self {
            steps: calls.iter().flat_map(refuse).collect(),
        }
    }

    /// Has the expedited barriers of `membarrier(2)` fail with `EPERM`, though not the question which there are.
    #[must_use]
    pub fn refusing_barriers() -> Self {
        const EXPEDITED: u32 = 1 << 1;
        let steps = [
            load(NUMBER_OFFSET),
            unless(libc::SYS_membarrier as u32, 3),
            load(FIRST_ARGUMENT_OFFSET),
            unless(EXPEDITED, 1),
            fail(libc::EPERM),
        ];
        Self {
            steps: steps.to_vec(),
        }
    }

    /// Applies it to the calling thread.
    ///
    /// # Errors
    /// The system takes no filter.
    pub fn apply_to_thread(self) -> io::Result<()> {
        self.apply(0)
    }

    /// Applies it to all threads of the process.
    ///
    /// # Errors
    /// As [`Self::apply_to_thread`].
    pub fn apply_to_process(self) -> io::Result<()> {
        self.apply(libc::SECCOMP_FILTER_FLAG_TSYNC)
    }

    /// Runs `test` on a thread of its own to which it is applied.
    ///
    /// # Panics
    /// If the test does, or the system takes no filter.
    pub fn around(self, test: impl FnOnce() + Send) {
        thread::scope(|scope| {
            let filtered = scope.spawn(|| {
                self.apply_to_thread().expect("the system takes the filter");
                test();
            });
            filtered.join().expect("the thread's assertions hold");
        });
    }

    fn apply(mut self, flags: libc::c_ulong) -> io::Result<()> {
        self.steps.push(give(libc::SECCOMP_RET_ALLOW));
        let program = libc::sock_fprog {
            len: self.steps.len() as u16,
            filter: self.steps.as_mut_ptr(),
        };
        // SAFETY: the first call takes numbers only; the second reads the program and its steps, both of which outlive
        // it, and the kernel keeps a copy.
        let is_taken = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::syscall(
                    libc::SYS_seccomp,
                    libc::SECCOMP_SET_MODE_FILTER,
                    flags,
                    &raw const program,
                ) == 0
        };
        is_taken.then_some(()).ok_or_else(io::Error::last_os_error)
    }
}

/// Takes a word of what the filter is shown of the call.
fn load(offset: u32) -> sock_filter {
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0)
}

/// Skips so many steps unless the word that was taken last is this one.
fn unless(word: u32, steps: u8) -> sock_filter {
    step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, word, steps)
}

/// Has the call fail with this error.
fn fail(errno: i32) -> sock_filter {
    give(libc::SECCOMP_RET_ERRNO | errno.cast_unsigned())
}

/// Ends the filter with this verdict.
fn give(verdict: u32) -> sock_filter {
    step(libc::BPF_RET | libc::BPF_K, verdict, 0)
}

fn step(code: u32, operand: u32, skipped_if_not: u8) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: skipped_if_not,
        k: operand,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error of a call that takes two numbers, if it fails.
    fn errno_of(call: c_long, arguments: [i32; 2]) -> Option<i32> {
        // SAFETY: the calls below take numbers only.
        let result = unsafe { libc::syscall(call, arguments[0], arguments[1]) };
        let error = io::Error::last_os_error();
        (result < 0).then(|| error.raw_os_error().expect("the system's"))
    }

    #[test]
    fn only_the_calls_that_are_named_fail_and_with_the_error_that_is_named() {
        let filter =
            SystemCallFilter::refusing(&[libc::SYS_getppid, libc::SYS_gettid], libc::EPIPE);
        filter.around(|| {
            assert_eq!(errno_of(libc::SYS_getppid, [0; 2]), Some(libc::EPIPE));
            assert_eq!(errno_of(libc::SYS_gettid, [0; 2]), Some(libc::EPIPE));
            assert_eq!(errno_of(libc::SYS_getpid, [0; 2]), None);
        });
        assert_eq!(errno_of(libc::SYS_getppid, [0; 2]), None);
    }

    #[test]
    fn barriers_are_refused_but_can_be_listed() {
        const QUERY: i32 = 0;
        const GLOBAL_EXPEDITED: i32 = 1 << 1;
        SystemCallFilter::refusing_barriers().around(|| {
            let refused = errno_of(libc::SYS_membarrier, [GLOBAL_EXPEDITED, 0]);
            assert_eq!(refused, Some(libc::EPERM));
            assert_ne!(
                errno_of(libc::SYS_membarrier, [QUERY, 0]),
                Some(libc::EPERM)
            );
        });
    }
}
