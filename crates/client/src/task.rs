//! Handles of tasks in flight.
//!
//! Laws of this module:
//! - The buffer of a task in flight is at its record ([`crate::place`]), out of reach. It comes out
//!   with the result, or stays there when the handle is dropped, and is freed when the task is
//!   done. A handle that is forgotten leaves its record, and its buffer, taken: that leaks, and
//!   nothing more.

use std::fmt;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::call::{Call, Finished};
use crate::desk::{Parcel, TakenUp};
use crate::error::{Error, TaskError};
use crate::lane::{ClientLane, Flight, OWNED};
use crate::lanes::LaneRef;

/// A task in flight, or one that has ended and whose result nobody took yet.
///
/// It can be waited for ([`Task::wait`]), asked ([`Task::try_wait`]), or awaited as a `Future` on
/// any executor, from any thread. Dropping it gives up the result, not the task: the task is
/// carried out all the same, and its buffer freed then.
#[must_use = "the result of a task says whether it succeeded"]
pub struct Task<T> {
    /// `None` once the result was taken.
    pending: Option<Pending>,
    finish: fn(Finished<'_>) -> Result<T, TaskError>,
}

struct Pending {
    lane: LaneRef,
    flight: Flight,
}

impl<T> Task<T> {
    /// The handle of a task that was submitted with [`ClientLane::submit_attached`].
    #[inline]
    pub(crate) fn new(
        lane: &Arc<ClientLane>,
        flight: Flight,
        finish: fn(Finished<'_>) -> Result<T, TaskError>,
    ) -> Self {
        Self {
            pending: Some(Pending {
                lane: LaneRef::of(lane),
                flight,
            }),
            finish,
        }
    }

    /// Blocks until the task has ended. Spins for a bounded time, then sleeps.
    ///
    /// # Errors
    /// The task's failure, together with its buffer.
    ///
    /// # Panics
    /// If the result was taken before by [`Task::try_wait`], [`Task::wait_timeout`] or `await`.
    #[inline]
    pub fn wait(mut self) -> Result<T, TaskError> {
        self.take().wait(self.finish)
    }

    /// Blocks until the task has ended, but no longer than this. `None`: it has not, and the
    /// handle is as before.
    ///
    /// # Errors
    /// The task's failure, together with its buffer.
    ///
    /// # Panics
    /// As [`Task::wait`].
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<T, TaskError>> {
        let deadline = Instant::now().checked_add(timeout);
        let pending = self.take();
        if pending.waits_until(deadline) {
            return Some(pending.wait(self.finish));
        }
        self.pending = Some(pending);
        None
    }

    /// The result if the task has ended. Does not block.
    ///
    /// # Errors
    /// The task's failure, together with its buffer.
    ///
    /// # Panics
    /// As [`Task::wait`].
    pub fn try_wait(&mut self) -> Option<Result<T, TaskError>> {
        if !self.is_complete() {
            return None;
        }
        Some(self.take().wait(self.finish))
    }

    /// Whether the task has ended, so that waiting would not block. Does not block.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.pending.as_ref().is_none_or(Pending::is_complete)
    }

    /// Whether the result was taken.
    pub(crate) fn is_taken(&self) -> bool {
        self.pending.is_none()
    }

    /// What was asked for, as long as the result was not taken, and in the process that asked.
    #[must_use]
    pub fn request(&self) -> Option<Call> {
        let pending = self.pending.as_ref()?;
        if !pending.lane.is_here() {
            return None;
        }
        Some(pending.lane.call_of(pending.flight))
    }

    /// Has a waker woken when the task has ended, unless it has already.
    ///
    /// # Panics
    /// As [`Task::wait`].
    pub(crate) fn watch(&self, waker: &Waker) -> Watch {
        let pending = self.pending.as_ref().expect(TAKEN);
        if pending.is_complete() {
            Watch::Complete
        } else if !pending.lane.link.watch_the_bell() {
            Watch::Impossible
        } else if pending.lane.leave_waker(pending.flight, waker) {
            Watch::Complete
        } else {
            Watch::Waiting
        }
    }

    /// The lane on which the task's end is to be looked for.
    pub(crate) fn lane(&self) -> &ClientLane {
        &self.pending.as_ref().expect(TAKEN).lane
    }

    #[inline]
    fn take(&mut self) -> Pending {
        self.pending.take().expect(TAKEN)
    }
}

/// Whether a waker was left with a task.
pub(crate) enum Watch {
    /// The task has ended.
    Complete,
    /// The waker is woken when it does.
    Waiting,
    /// There is no thread to be had that would wake it.
    Impossible,
}

pub(crate) const TAKEN: &str = "the result of this task was taken before";

/// The task is another process's, as is its buffer.
#[cold]
#[inline(never)]
fn forked<T>() -> Result<T, TaskError> {
    Err(Error::forked("waiting for a task").into())
}

impl Pending {
    /// Whether waiting would not block.
    #[inline]
    fn is_complete(&self) -> bool {
        !self.lane.is_here() || self.lane.is_complete(self.flight)
    }

    /// Blocks until the task has ended, and makes its result.
    #[inline]
    fn wait<T>(self, finish: fn(Finished<'_>) -> Result<T, TaskError>) -> Result<T, TaskError> {
        // From here on the record is freed, or is not there any more.
        let this = ManuallyDrop::new(self);
        let (lane, flight) = (this.lane, this.flight);
        if !lane.is_here() {
            return forked();
        }
        match lane.take_up(flight) {
            TakenUp::Owned => {
                lane.wait_owned(flight, None);
                // Also if `finish`, which is a module's client's, panics.
                let end = End { lane, flight };
                // SAFETY: the claim was moved by this thread, which makes the place its own.
                let place = unsafe { lane.places.of(flight.record) };
                let record = lane.memory.record(flight.record);
                let result = finish(Finished::new(&place.call, record, &mut place.buffer));
                drop(end);
                result
            }
            TakenUp::Harvested(mut parcel) => {
                let Parcel { record, place } = &mut *parcel;
                finish(Finished::new(&place.call, record, &mut place.buffer))
            }
        }
    }

    /// Blocks until the task has ended, but no longer than until the deadline. Returns whether it
    /// has.
    fn waits_until(&self, deadline: Option<Instant>) -> bool {
        let (lane, flight) = (self.lane, self.flight);
        if self.is_complete() {
            return true;
        }
        // Only a record that nobody else frees is slept on.
        if !lane.claim_for_handle(flight, OWNED) {
            return true;
        }
        let is_complete = lane.wait_owned(flight, deadline);
        lane.give_back(flight);
        is_complete
    }
}

/// The end of a task whose claim is its handle's: its place is emptied and its record freed.
struct End {
    lane: LaneRef,
    flight: Flight,
}

impl Drop for End {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: as where this is made; what used the place before is done.
        let left = unsafe { self.lane.places.of(self.flight.record) }
            .buffer
            .take();
        if left.is_some() {
            drop(left);
        }
        self.lane.release_from_handle(self.flight);
    }
}

impl Drop for Pending {
    #[inline]
    fn drop(&mut self) {
        if self.lane.is_here() {
            self.lane.abandon(self.flight);
        }
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.watch(context.waker()) {
            Watch::Complete => {
                let finish = self.finish;
                Poll::Ready(self.take().wait(finish))
            }
            Watch::Waiting => Poll::Pending,
            Watch::Impossible => {
                // The executor has to ask again and again.
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("call", &self.request())
            .field("complete", &self.is_complete())
            .finish_non_exhaustive()
    }
}
