//! A lock, and conditions to wait for, that a forked child can have anew.
//!
//! Those of `parking_lot` know who waits by a table of the whole process, which a child inherits with waiters that it does
//! not have: threads of its own that come to wait in their places fail. These are the system's, of which each is by
//! itself; so what the threads of a host and its modules wait for, for longer than a moment, are these.

use std::ops::{Deref, DerefMut};
use std::sync::{self, PoisonError};
use std::time::{Duration, Instant};

/// A lock that a panic does not poison.
#[derive(Debug, Default)]
pub struct Mutex<T>(sync::Mutex<T>);

/// It is locked as long as this is there.
#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    lock: &'a sync::Mutex<T>,
    /// `None` only while it waits.
    held: Option<sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// A lock of this value.
    pub const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    /// Waits until nobody else has it.
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
    /// Does something while it is not locked.
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

/// Something to wait for.
#[derive(Debug, Default)]
pub struct Condvar(sync::Condvar);

impl Condvar {
    /// One that nobody waits for.
    #[must_use]
    pub const fn new() -> Self {
        Self(sync::Condvar::new())
    }

    /// Wakes one who waits.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Waits, unlocked meanwhile. May come back without having been woken.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.held.take().expect("it is locked");
        let held = self.0.wait(held).unwrap_or_else(PoisonError::into_inner);
        guard.held = Some(held);
    }

    /// Waits at most so long. Returns whether that has passed.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, patience: Duration) -> bool {
        let held = guard.held.take().expect("it is locked");
        let waited = self.0.wait_timeout(held, patience);
        let (held, result) = waited.unwrap_or_else(PoisonError::into_inner);
        guard.held = Some(held);
        result.timed_out()
    }

    /// Waits until then at most. Returns whether it is then.
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, end: Instant) -> bool {
        self.wait_for(guard, end.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::spawn;

    /// Waiters of either side of a fork: so many that some meet, whatever they are told apart by.
    const WAITERS: usize = 64;
    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn a_forked_childs_threads_wait_though_its_parents_wait_too() {
        let waiters: Vec<_> = (0..WAITERS).map(|_| Arc::new(Waiter::default())).collect();
        let threads: Vec<_> = waiters.iter().map(Waiter::start).collect();
        for waiter in &waiters {
            // It has given the lock back, so it waits.
            while !*waiter.begun.lock() {
                std::thread::yield_now();
            }
        }
        // SAFETY: the child uses memory, locks of its own and threads, and ends without returning.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // All at the same time, so that they have the stacks of their parent's.
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
    struct Waiter {
        begun: Mutex<bool>,
        over: Mutex<bool>,
        condition: Condvar,
    }

    impl Waiter {
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
