//! A lock, and conditions to wait for, that a forked child can have anew.
//!
//! Those of `parking_lot` know who waits by a table of the whole process, which a child inherits with waiters that it does
//! not have: threads of its own that come to wait in their places fail. These are the system's, of which each is by
//! itself; so whatever threads of a host wait for, for longer than a moment, are these.

use std::ops::{Deref, DerefMut};
use std::sync::{self, PoisonError};
use std::time::{Duration, Instant};

/// A lock that a panic does not poison.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

/// It is locked as long as this is there.
pub(crate) struct MutexGuard<'a, T> {
    lock: &'a sync::Mutex<T>,
    /// `None` only while it waits.
    held: Option<sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
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
    pub(crate) fn unlocked<R>(&mut self, action: impl FnOnce() -> R) -> R {
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
pub(crate) struct Condvar(sync::Condvar);

impl Condvar {
    pub(crate) const fn new() -> Self {
        Self(sync::Condvar::new())
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.held.take().expect("it is locked");
        let held = self.0.wait(held).unwrap_or_else(PoisonError::into_inner);
        guard.held = Some(held);
    }

    /// Waits at most so long. Returns whether that has passed.
    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, patience: Duration) -> bool {
        let held = guard.held.take().expect("it is locked");
        let waited = self.0.wait_timeout(held, patience);
        let (held, result) = waited.unwrap_or_else(PoisonError::into_inner);
        guard.held = Some(held);
        result.timed_out()
    }

    /// Waits until then at most. Returns whether it is then.
    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, end: Instant) -> bool {
        self.wait_for(guard, end.saturating_duration_since(Instant::now()))
    }
}
