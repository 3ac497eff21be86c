//! Reentrancy: how a call knows that it comes from a signal handler that has interrupted another call.
//!
//! A signal handler runs on the thread that it interrupts, at any instruction. If the thread was in the middle of a
//! step of this crate, a call of the handler must not touch the same state: it would find the step half done, or wait
//! for a lock whose holder cannot continue before the handler returns. So a thread **is inside** while it holds a lock
//! of this crate or the permit to submit, and during the few other steps that must not be seen half done. Every call
//! checks that first, and is refused if its thread is inside ([`refusal`]).
//!
//! Laws of this module:
//! - No code of a user runs while its thread is inside: no waker, no step of a task, no function that makes a result,
//!   no drop of a buffer. So a call that finds its thread inside when it begins was made by a signal handler, and finds
//!   it inside until the handler returns.
//! - A call that finds its thread outside may proceed: the code that it may have interrupted touches nothing before the
//!   handler returns.
//! - What a thread changes outside, on a lane of its own, it changes by one instruction ([`set_bits`]), which a signal
//!   finds done or not begun.
//! - A signal handler sees stores in the order of the program. The compiler is told so by fences of its own kind; the
//!   processor needs none for a thread to see its own stores.

use std::cell::Cell;
use std::fmt::Display;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, compiler_fence};
use std::time::Instant;

use chimaera_proto::Status;

use crate::error::Error;

/// What every thread has of this crate. It is one value, so that its address is computed once per task, and has no
/// destructor, so that it exists for as long as the thread runs.
pub(crate) struct ThisThread {
    /// The lane that this thread used last: number of the connection, and index. Written inside only.
    pub(crate) last_lane: Cell<(u64, usize)>,
    is_inside: AtomicBool,
}

/// The lane of no connection. A connection does not have this number, nor does it in a forked process, where it is 0.
pub(crate) const NO_LANE: (u64, usize) = (u64::MAX, 0);

thread_local! {
    static THIS_THREAD: ThisThread = const {
        ThisThread {
            last_lane: Cell::new(NO_LANE),
            is_inside: AtomicBool::new(false),
        }
    };
}

impl ThisThread {
    #[inline(always)]
    pub(crate) fn with<T>(look: impl FnOnce(&Self) -> T) -> T {
        THIS_THREAD.with(look)
    }

    /// A number that tells this thread from all others that run. Never 0.
    #[inline(always)]
    pub(crate) fn token(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Whether this thread is inside, which only a signal handler can find.
    #[inline(always)]
    pub(crate) fn is_inside(&self) -> bool {
        // SAFETY: only this thread and its signal handlers access it, and a handler leaves it as it was. So this need
        // not be an atomic load, which the compiler would not combine with its use.
        unsafe { self.is_inside.as_ptr().read() }
    }
}

/// Whether the calling thread is inside, which only a signal handler can find.
#[inline(always)]
pub(crate) fn is_inside() -> bool {
    ThisThread::with(ThisThread::is_inside)
}

/// Refuses a call of a signal handler that has interrupted its thread inside.
///
/// # Errors
/// [`refusal`].
pub(crate) fn refuse_inside(operation: impl Display) -> Result<(), Error> {
    if is_inside() {
        return Err(refusal(operation));
    }
    Ok(())
}

/// The error of a call that is refused to a signal handler.
#[cold]
#[inline(never)]
pub(crate) fn refusal(operation: impl Display) -> Error {
    Error::new(Status::Busy, operation).with_account(
        "a signal handler makes this call, and has interrupted another one of the same thread, which cannot \
         be left half done: let the handler set a flag or write to a pipe, and make the call when the thread \
         comes to look at that",
    )
}

/// Marks the calling thread as inside until it is dropped. Several may be nested.
pub(crate) struct Inside {
    before: bool,
    _of_this_thread: PhantomData<*const ()>,
}

impl Inside {
    #[inline(always)]
    pub(crate) fn enter() -> Self {
        let before = ThisThread::with(|thread| {
            let before = thread.is_inside();
            thread.is_inside.store(true, Ordering::Relaxed);
            before
        });
        compiler_fence(Ordering::SeqCst);
        Self {
            before,
            _of_this_thread: PhantomData,
        }
    }
}

impl Drop for Inside {
    #[inline(always)]
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        ThisThread::with(|thread| thread.is_inside.store(self.before, Ordering::Relaxed));
    }
}

/// As [`Inside`], for a thread that is known to be outside.
pub(crate) struct Outermost(PhantomData<*const ()>);

impl Outermost {
    #[inline(always)]
    pub(crate) fn enter() -> Self {
        ThisThread::with(|thread| {
            debug_assert!(!thread.is_inside(), "a permit within a permit");
            thread.is_inside.store(true, Ordering::Relaxed);
        });
        compiler_fence(Ordering::SeqCst);
        Self(PhantomData)
    }
}

impl Drop for Outermost {
    #[inline(always)]
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        ThisThread::with(|thread| thread.is_inside.store(false, Ordering::Relaxed));
    }
}

/// A lock whose holder is inside, already while it waits for the lock.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(parking_lot::Mutex<T>);

/// A [`Mutex`] that is locked.
pub(crate) struct MutexGuard<'a, T> {
    // Unlocked first.
    locked: parking_lot::MutexGuard<'a, T>,
    _inside: Inside,
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let inside = Inside::enter();
        MutexGuard {
            locked: self.0.lock(),
            _inside: inside,
        }
    }

    pub(crate) fn try_lock_until(&self, deadline: Instant) -> Option<MutexGuard<'_, T>> {
        let inside = Inside::enter();
        Some(MutexGuard {
            locked: self.0.try_lock_until(deadline)?,
            _inside: inside,
        })
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.locked
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.locked
    }
}

/// Sets bits of a word that no other thread writes. For other threads this is a load and a store with release; for this
/// thread's signal handlers it is one step.
#[inline(always)]
pub(crate) fn set_bits(word: &AtomicU64, bits: u64) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the word is valid, aligned and may be written through a shared reference. One instruction without `lock`
    // costs no more than a load and a store, as it does not wait for other processors. On this architecture every
    // store is a release.
    unsafe {
        std::arch::asm!(
            "or qword ptr [{word}], {bits}",
            word = in(reg) word.as_ptr(),
            bits = in(reg) bits,
            options(nostack),
        );
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    word.fetch_or(bits, Ordering::Release);
}
