//! A lock and a condition variable that a forked child can use for threads of its own.
//!
//! `parking_lot` keeps waiters in one table of the whole process. A child inherits that table with waiters that do not
//! exist there, and its own threads fail when they come to wait in the same places. The lock and the condition variable
//! here are the system's, each of which keeps its own waiters. The threads of a host and its modules use these for
//! whatever they wait for longer than a moment.

use std::ops::{Deref, DerefMut};
use std::sync::{self, PoisonError};
use std::time::{Duration, Instant};

/// A lock that a panic does not poison.
#[derive(Debug, Default)]
pub struct Mutex<T>(sync::Mutex<T>);

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    lock: &'a sync::Mutex<T>,
    /// `None` only while the lock is given up: in a wait, or in [`MutexGuard::unlocked`].
    held: Option<sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// A lock of this value.
    pub const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    /// Takes the lock. Blocks while another thread holds it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard {
            lock: &self.0,
            held: Some(lock(&self.0)),
        }
    }
}

fn lock<T>(lock: &sync::Mutex<T>) -> sync::MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> MutexGuard<'_, T> {
    /// Runs `action` with the lock given up.
    pub fn unlocked<R>(&mut self, action: impl FnOnce() -> R) -> R {
        self.held = None;
        let result = action();
        self.held = Some(lock(self.lock));
        result
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("it is locked")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("it is locked")
    }
}

/// A condition variable.
#[derive(Debug, Default)]
pub struct Condvar(sync::Condvar);

impl Condvar {
    /// A condition variable without waiters.
    #[must_use]
    pub const fn new() -> Self {
        Self(sync::Condvar::new())
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all waiters.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Waits with the lock given up. May return without having been woken.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.held.take().expect("it is locked");
        let held = self.0.wait(held).unwrap_or_else(PoisonError::into_inner);
        guard.held = Some(held);
    }

    /// As [`Self::wait`], for `patience` at most. Returns whether that has passed.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, patience: Duration) -> bool {
        let held = guard.held.take().expect("it is locked");
        let waited = self.0.wait_timeout(held, patience);
        let (held, result) = waited.unwrap_or_else(PoisonError::into_inner);
        guard.held = Some(held);
        result.timed_out()
    }

    /// As [`Self::wait`], until `end` at most. Returns whether `end` has come.
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, end: Instant) -> bool {
        self.wait_for(guard, end.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::spawn;

    /// Waiters in the parent, and in the child: so many that some share a place in any table of waiters.
    const WAITERS: usize = 64;
    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn a_forked_childs_threads_wait_though_its_parents_wait_too() {
        let waiters: Vec<_> = (0..WAITERS)
            .map(|_| Arc::new(WaitingThread::default()))
            .collect();
        let threads: Vec<_> = waiters.iter().map(WaitingThread::start).collect();
        for waiter in &waiters {
            // The waiter has given the lock up, so it waits.
            while !*waiter.begun.lock() {
                std::thread::yield_now();
            }
        }
        // SAFETY: the child uses memory, locks of its own and threads, and ends without returning.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // All at the same time, so that their stacks lie where the parent's waiters have theirs.
            let own: Vec<_> = (0..WAITERS)
                .map(|_| spawn("chimaera-test", wait_for_moments))
                .collect();
            let ended = own
                .into_iter()
                .filter_map(|thread| thread.ok()?.join().ok());
            let ended = ended.count();
            // SAFETY: it ends the process at once.
            unsafe { libc::_exit(i32::from(ended != WAITERS)) };
        }
        let mut status = -1;
        // SAFETY: the place is valid, and the child is this process's own.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        for waiter in waiters {
            *waiter.over.lock() = true;
            waiter.condition.notify_one();
        }
        for thread in threads {
            thread.join().expect("no panic");
        }
    }

    fn wait_for_moments() {
        let (lock, condition) = (Mutex::new(()), Condvar::new());
        for _ in 0..100 {
            let _ = condition.wait_for(&mut lock.lock(), MOMENT);
        }
    }

    #[derive(Default)]
    struct WaitingThread {
        begun: Mutex<bool>,
        over: Mutex<bool>,
        condition: Condvar,
    }

    impl WaitingThread {
        fn start(self: &Arc<Self>) -> crate::JoinHandle<()> {
            let waiter = Arc::clone(self);
            let wait = move || {
                let mut over = waiter.over.lock();
                *waiter.begun.lock() = true;
                while !*over {
                    waiter.condition.wait(&mut over);
                }
            };
            spawn("chimaera-test", wait).expect("a thread")
        }
    }

    #[test]
    fn what_is_done_unlocked_finds_it_unlocked() {
        let lock = Mutex::new(1);
        let mut held = lock.lock();
        let seen = held.unlocked(|| std::mem::replace(&mut *lock.lock(), 2));
        assert_eq!((seen, *held), (1, 2));
    }

    #[test]
    fn a_wait_says_whether_its_time_has_passed() {
        let (lock, condition) = (Mutex::new(()), Condvar::new());
        assert!(condition.wait_for(&mut lock.lock(), MOMENT));
        assert!(condition.wait_until(&mut lock.lock(), Instant::now()));
    }
}
