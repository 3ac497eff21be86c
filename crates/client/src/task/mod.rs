//! Handles of tasks.
//!
//! Laws of this module:
//! - The buffer of a task in flight lies at the task's record ([`crate::lane::payload`]), out of reach. It comes out
//!   with the result. If the handle is dropped, it stays there, and is freed after the task has completed. If the
//!   handle is forgotten, record and buffer are leaked, and nothing worse happens.
//! - A task that is not in flight lies in a box of its own ([`Deferred`]), so that handles of tasks in flight are
//!   small.

mod compound;
mod deferred;
pub(crate) mod pending;
pub(crate) mod unsubmitted;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crate::buffer::Buffer;
use crate::call::{Call, Finished, Refused};
use crate::lane::ClientLane;
use crate::lane::claim::Flight;
use crate::lane::lingering::LaneRef;
use crate::reentrancy::is_inside;
use crate::task::deferred::{Deferred, DeferredWatch};
use crate::task::pending::{Pending, Watch, refused};
use crate::task::unsubmitted::Unsubmitted;
use crate::task_error::TaskError;
use crate::wakers::{UnparkOnDrop, unpark_this_thread};

/// A task: not submitted yet, in flight, or ended with a result that was not taken yet.
///
/// It can be waited for ([`Task::wait`]), polled ([`Task::try_wait`]), or awaited as a `Future` on any executor, from
/// any thread. Whatever keeps it from succeeding is its result.
///
/// A task is submitted when it is made, if the thread's lane has room: as many may be in flight as a lane has records.
/// Otherwise it is **unsubmitted**: it is submitted when it is polled, waited for or asked whether it is complete, as
/// soon as there is room on the lane of the thread that does so, first come, first served.
///
/// Dropping it gives up the result. A task that was submitted is carried out all the same, and its buffer is freed
/// afterwards; an unsubmitted one has done nothing, and its buffer is freed at once. A task of several steps
/// ([`Task::of_steps`]) does not begin further steps.
///
/// Tasks are not carried out in the order in which they were made: an unsubmitted one may come after a later one, also
/// of the same thread. Wait for a task before making another that depends on it.
#[must_use = "the result of a task says whether it succeeded"]
pub struct Task<T> {
    state: State<T>,
    finish: fn(Finished<'_>) -> Result<T, TaskError>,
}

enum State<T> {
    InFlight(Pending),
    /// `None` once the result was taken.
    Deferred(Option<Box<Deferred<T>>>),
}

impl<T> Task<T> {
    /// The handle of a task that was submitted and is `Attached`.
    #[inline]
    pub(crate) fn new(
        lane: &Arc<ClientLane>,
        flight: Flight,
        finish: fn(Finished<'_>) -> Result<T, TaskError>,
    ) -> Self {
        Self {
            state: State::InFlight(Pending::new(lane, flight)),
            finish,
        }
    }

    #[cold]
    pub(crate) fn unsubmitted(
        task: Unsubmitted,
        finish: fn(Finished<'_>) -> Result<T, TaskError>,
    ) -> Self {
        Self::deferred(Deferred::unsubmitted(task), finish)
    }

    #[cold]
    pub(crate) fn refused(
        refused: Refused,
        finish: fn(Finished<'_>) -> Result<T, TaskError>,
    ) -> Self {
        Self::deferred(Deferred::refused(refused), finish)
    }

    fn deferred(deferred: Deferred<T>, finish: fn(Finished<'_>) -> Result<T, TaskError>) -> Self {
        Self {
            state: State::Deferred(Some(Box::new(deferred))),
            finish,
        }
    }

    /// A task that has failed before it was submitted, for a module's client that sees beforehand
    /// that it cannot succeed.
    #[cold]
    pub fn failed(error: impl Into<TaskError>) -> Self {
        Self::deferred(Deferred::Failed(error.into()), |_| {
            unreachable!("never ran")
        })
    }

    /// A task of several steps, which begin at once, and continue whenever the task is polled, waited for or asked
    /// whether it is complete. Dropping the task drops the tasks that its steps have begun.
    ///
    /// The steps must not block; they await other tasks.
    pub fn of_steps(steps: impl Future<Output = Result<T, TaskError>> + Send + 'static) -> Self {
        Self::deferred(Deferred::of_steps(steps), |_| unreachable!("never ran"))
    }

    /// Blocks until the task has ended. Spins for a bounded time, then sleeps.
    ///
    /// # Errors
    /// The task's failure, together with its buffer.
    ///
    /// # Panics
    /// If the result was taken before by [`Task::try_wait`], [`Task::wait_timeout`] or `await`.
    #[inline]
    pub fn wait(self) -> Result<T, TaskError> {
        self.state.wait(self.finish)
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
        if is_inside() {
            return None;
        }
        let deadline = Instant::now().checked_add(timeout);
        let has_ended = match &self.state {
            State::InFlight(pending) => pending.waits_until(deadline),
            State::Deferred(_) => self.waits_deferred_until(deadline),
        };
        has_ended.then(|| self.take_result())
    }

    /// The result if the task has ended. Does not block. Submits the task if it was not and there is
    /// room.
    ///
    /// # Errors
    /// The task's failure, together with its buffer.
    ///
    /// # Panics
    /// As [`Task::wait`].
    pub fn try_wait(&mut self) -> Option<Result<T, TaskError>> {
        if is_inside() || !self.is_complete() {
            return None;
        }
        Some(self.take_result())
    }

    /// Whether the task has ended, so that waiting would not block. Does not block. Submits the task if
    /// it was not and there is room.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match &self.state {
            State::InFlight(pending) => pending.is_complete(),
            State::Deferred(deferred) => deferred
                .as_ref()
                .is_none_or(|deferred| deferred.is_complete()),
        }
    }

    /// Whether the task was submitted, or has ended or failed, so that dropping it has no effect on what is carried
    /// out. Does not try to submit it. For a task of several steps, whether it has ended.
    #[must_use]
    pub fn is_submitted(&self) -> bool {
        match &self.state {
            State::InFlight(_) => true,
            State::Deferred(deferred) => deferred
                .as_ref()
                .is_none_or(|deferred| deferred.is_submitted()),
        }
    }

    /// Takes back a task that was not submitted: nothing was done, and its buffer, if it has one, is returned.
    ///
    /// # Errors
    /// The task as it was, if it was submitted or has ended.
    pub fn take_back(self) -> Result<Option<Buffer>, Self> {
        if let State::Deferred(Some(deferred)) = &self.state
            && let Some(buffer) = deferred.take_back()
        {
            return Ok(buffer);
        }
        Err(self)
    }

    /// Whether the result was taken.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self.state, State::Deferred(None))
    }

    /// The call of the task. `None` once the result was taken, in another process, for a task of several steps, for one
    /// that has failed before it was submitted, and while another thread tries to submit it.
    #[must_use]
    pub fn request(&self) -> Option<Call> {
        match &self.state {
            State::InFlight(pending) => pending.call(),
            State::Deferred(deferred) => deferred.as_ref()?.request(),
        }
    }

    /// Registers a waker to be woken when the task has ended, or may be submitted, unless it has ended already.
    ///
    /// # Panics
    /// As [`Task::wait`].
    pub(crate) fn watch(&mut self, waker: &Waker) -> Watch {
        if let State::Deferred(deferred) = &mut self.state {
            let deferred = deferred.as_mut().expect(TAKEN);
            match deferred.watch(waker) {
                DeferredWatch::Wait(watch) => return watch,
                DeferredWatch::InFlight(pending) => self.state = State::InFlight(pending),
            }
        }
        match &self.state {
            State::InFlight(pending) => pending.watch(waker),
            State::Deferred(_) => unreachable!("it is in flight"),
        }
    }

    /// The lane that the task is in flight on, if it is.
    pub(crate) fn lane(&self) -> Option<LaneRef> {
        match &self.state {
            State::InFlight(pending) => Some(pending.lane),
            State::Deferred(_) => None,
        }
    }

    /// The connection of a task that is not submitted, as a number.
    pub(crate) fn waits_in(&self) -> Option<usize> {
        match &self.state {
            State::InFlight(_) => None,
            State::Deferred(deferred) => deferred.as_ref()?.waits_in(),
        }
    }

    /// Blocks until a task that is not in flight has ended, but no longer than until the deadline. Returns whether it
    /// has. If not, the waker of whoever polled the task before is registered again.
    #[cold]
    fn waits_deferred_until(&mut self, deadline: Option<Instant>) -> bool {
        let mut polled_by = None;
        if let State::Deferred(Some(deferred)) = &mut self.state {
            match deferred.take_in_flight() {
                Some(pending) => self.state = State::InFlight(pending),
                None => polled_by = deferred.take_waker(),
            }
        }
        let has_ended = match &self.state {
            State::InFlight(pending) => pending.waits_until(deadline),
            State::Deferred(_) => self.leaves_queue_until(deadline) && self.ends_by(deadline),
        };
        if has_ended {
            return true;
        }
        if let Some(waker) = polled_by {
            // In the seat that the task has, if it has one.
            if !matches!(self.watch(&waker), Watch::Waiting) {
                waker.wake();
            }
        } else if let State::Deferred(Some(deferred)) = &mut self.state {
            deferred.leave_queue();
        }
        false
    }

    /// Blocks until a task that has left the queue has ended, but no longer than until the deadline.
    fn ends_by(&self, deadline: Option<Instant>) -> bool {
        match &self.state {
            State::InFlight(pending) => pending.waits_until(deadline),
            State::Deferred(_) => true,
        }
    }

    /// Blocks until a task that is not in flight is in flight or has ended, but no longer than until the deadline.
    /// Returns whether it is.
    fn leaves_queue_until(&mut self, deadline: Option<Instant>) -> bool {
        let waker = unpark_this_thread();
        let _unparking = UnparkOnDrop;
        loop {
            let is_watched = match self.watch(&waker) {
                Watch::Complete => return true,
                _ if matches!(self.state, State::InFlight(_)) => return true,
                Watch::Waiting => true,
                Watch::Impossible => false,
            };
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match left {
                Some(Duration::ZERO) => return false,
                _ if !is_watched => thread::yield_now(),
                Some(left) => thread::park_timeout(left),
                None => thread::park(),
            }
        }
    }

    /// As [`Self::wait`]; the result is taken then.
    fn take_result(&mut self) -> Result<T, TaskError> {
        std::mem::replace(&mut self.state, State::Deferred(None)).wait(self.finish)
    }
}

impl<T> State<T> {
    /// Blocks until the task has ended, and makes its result.
    #[inline]
    fn wait(self, finish: fn(Finished<'_>) -> Result<T, TaskError>) -> Result<T, TaskError> {
        match self {
            Self::InFlight(pending) => pending.wait(finish),
            Self::Deferred(deferred) => wait_deferred(deferred, finish),
        }
    }
}

/// A function of its own, lest the boxed value need space in the frame of callers that wait for a task in flight.
#[cold]
#[inline(never)]
fn wait_deferred<T>(
    deferred: Option<Box<Deferred<T>>>,
    finish: fn(Finished<'_>) -> Result<T, TaskError>,
) -> Result<T, TaskError> {
    let deferred = deferred.expect(TAKEN);
    if is_inside() {
        return refused();
    }
    deferred.wait(finish)
}

pub(crate) const TAKEN: &str = "the result of this task was taken before";

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if is_inside() {
            // The executor runs in a signal handler, and would poll for ever.
            return Poll::Ready(refused());
        }
        match self.watch(context.waker()) {
            Watch::Complete => Poll::Ready(self.take_result()),
            Watch::Waiting => Poll::Pending,
            Watch::Impossible => {
                // The executor has to poll again and again.
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
