//! Handles of tasks in flight.
//!
//! Laws of this module:
//! - The buffer of a task in flight is in its handle, out of reach. It comes out with the result,
//!   or goes to the lane's desk when the handle is dropped, and is freed when the task is done.
//!   A handle that is forgotten takes its buffer along: that leaks, and nothing more.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use chimaera_proto::Completion;

use crate::buffer::Buffer;
use crate::call::{Call, Finished};
use crate::desk::TakenUp;
use crate::error::TaskError;
use crate::lane::{ClientLane, Flight};

/// A task in flight, or one that has ended and whose result nobody took yet.
///
/// It can be waited for ([`Task::wait`]), asked ([`Task::try_wait`]), or awaited as a `Future` on
/// any executor, from any thread. Dropping it gives up the result, not the task: the task is
/// carried out all the same, and its buffer freed then.
#[must_use = "the result of a task says whether it succeeded"]
pub struct Task<T> {
    /// `None` once the result was taken.
    pending: Option<Pending>,
    finish: fn(Finished) -> Result<T, TaskError>,
}

struct Pending {
    lane: Arc<ClientLane>,
    flight: Flight,
    left_waker: bool,
    call: Call,
    buffer: Option<Buffer>,
    /// Set while the claim is this handle's, and when there is nothing left in flight.
    settled: bool,
}

impl<T> Task<T> {
    #[inline]
    pub(crate) fn new(
        lane: Arc<ClientLane>,
        flight: Flight,
        call: Call,
        buffer: Option<Buffer>,
        finish: fn(Finished) -> Result<T, TaskError>,
    ) -> Self {
        Self {
            pending: Some(Pending {
                lane,
                flight,
                left_waker: false,
                call,
                buffer,
                settled: false,
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
        let mut pending = self.take();
        let completion = pending.wait();
        pending.finish(completion, self.finish)
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
        let completion = self.pending().wait_until(deadline)?;
        Some(self.take().finish(completion, self.finish))
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
        let completion = self.pending().wait();
        Some(self.take().finish(completion, self.finish))
    }

    /// Whether the task has ended, so that waiting would not block. Does not block.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.pending
            .as_ref()
            .is_none_or(|pending| pending.lane.is_complete(pending.flight))
    }

    /// What was asked for, as long as the result was not taken.
    #[must_use]
    pub fn request(&self) -> Option<&Call> {
        self.pending.as_ref().map(|pending| &pending.call)
    }

    fn pending(&mut self) -> &mut Pending {
        self.pending.as_mut().expect(TAKEN)
    }

    #[inline]
    fn take(&mut self) -> Pending {
        self.pending.take().expect(TAKEN)
    }
}

const TAKEN: &str = "the result of this task was taken before";

impl Pending {
    /// Blocks until the task has ended.
    #[inline]
    fn wait(&mut self) -> Completion {
        match self.take_up() {
            TakenUp::Owned => {
                let completion = self.lane.finish_owned(self.flight);
                self.settled = true;
                completion
            }
            TakenUp::Harvested(completion) => completion,
        }
    }

    fn wait_until(&mut self, deadline: Option<Instant>) -> Option<Completion> {
        match self.take_up() {
            TakenUp::Owned => {
                if !self.lane.wait_owned(self.flight, deadline) {
                    self.lane.give_back(self.flight);
                    return None;
                }
                self.settled = true;
                Some(self.lane.retire(self.flight))
            }
            TakenUp::Harvested(completion) => Some(completion),
        }
    }

    #[inline]
    fn take_up(&mut self) -> TakenUp {
        let taken = self.lane.take_up(self.flight, self.left_waker);
        self.left_waker = false;
        self.settled |= matches!(taken, TakenUp::Harvested(_));
        taken
    }

    #[inline]
    fn finish<T>(
        mut self,
        completion: Completion,
        finish: fn(Finished) -> Result<T, TaskError>,
    ) -> Result<T, TaskError> {
        finish(Finished {
            call: self.call,
            completion,
            buffer: self.buffer.take(),
        })
    }
}

impl Drop for Pending {
    #[inline]
    fn drop(&mut self) {
        if !self.settled {
            self.lane.abandon(self.flight, self.buffer.take());
        }
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let pending = self.pending();
        if !pending.lane.is_complete(pending.flight) {
            if !pending.lane.link.watch_the_bell() {
                // No thread to be had: then the executor has to ask again and again.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            pending.left_waker = true;
            if !pending.lane.leave_waker(pending.flight, context.waker()) {
                return Poll::Pending;
            }
        }
        let completion = self.pending().wait();
        let finish = self.finish;
        Poll::Ready(self.take().finish(completion, finish))
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
