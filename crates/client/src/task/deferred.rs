//! A task that is not in flight: what its handle holds.

use std::task::Waker;
use std::thread;

use parking_lot::Mutex;

use crate::buffer::Buffer;
use crate::call::{Call, Finished, Refused};
use crate::reentrancy::is_inside;
use crate::task::compound::Compound;
use crate::task::pending::{Pending, Watch};
use crate::task::unsubmitted::{Attempt, Unsubmitted};
use crate::task_error::TaskError;
use crate::wakers::{UnparkOnDrop, Wakers, unpark_this_thread, wake_all};

/// A task that is not in flight.
pub(crate) enum Deferred<T> {
    /// A task that was not in flight when its handle was last used by a mutable reference. Whoever has a shared
    /// reference locks it to submit it; others do not wait for the lock, which a forked process may inherit locked.
    Submit(Mutex<DeferredSubmit>),
    Failed(TaskError),
    Compound(Compound<T>),
}

/// A task that was not submitted at once, and what became of it.
pub(crate) enum DeferredSubmit {
    Unsubmitted(Unsubmitted),
    InFlight(Pending),
    Refused(Refused),
    /// It was in flight, and was moved into the handle.
    Moved,
}

/// The result of watching a task that was not in flight.
pub(crate) enum DeferredWatch {
    Wait(Watch),
    InFlight(Pending),
}

impl<T> Deferred<T> {
    pub(crate) fn unsubmitted(task: Unsubmitted) -> Self {
        Self::Submit(Mutex::new(DeferredSubmit::Unsubmitted(task)))
    }

    pub(crate) fn refused(refused: Refused) -> Self {
        Self::Submit(Mutex::new(DeferredSubmit::Refused(refused)))
    }

    pub(crate) fn of_steps(
        steps: impl Future<Output = Result<T, TaskError>> + Send + 'static,
    ) -> Self {
        Self::Compound(Compound::new(steps))
    }

    #[cold]
    pub(crate) fn is_complete(&self) -> bool {
        if is_inside() {
            return false;
        }
        match self {
            Self::Submit(waiting) => {
                let mut wakers = Wakers::new();
                let is_complete = {
                    let Some(mut waiting) = waiting.try_lock() else {
                        return false;
                    };
                    waiting.advance(None, &mut wakers);
                    match &*waiting {
                        DeferredSubmit::InFlight(pending) => pending.is_complete(),
                        DeferredSubmit::Unsubmitted(_) => false,
                        DeferredSubmit::Refused(_) | DeferredSubmit::Moved => true,
                    }
                };
                wake_all(wakers);
                is_complete
            }
            Self::Failed(_) => true,
            Self::Compound(compound) => compound.is_complete(),
        }
    }

    pub(crate) fn is_submitted(&self) -> bool {
        match self {
            Self::Submit(waiting) => waiting
                .try_lock()
                .is_some_and(|waiting| !matches!(*waiting, DeferredSubmit::Unsubmitted(_))),
            Self::Failed(_) => true,
            Self::Compound(compound) => compound.has_ended(),
        }
    }

    pub(crate) fn request(&self) -> Option<Call> {
        match self {
            Self::Submit(waiting) => match &*waiting.try_lock()? {
                DeferredSubmit::Unsubmitted(task) => Some(task.call()),
                DeferredSubmit::InFlight(pending) => pending.call(),
                DeferredSubmit::Refused(refused) => Some(refused.call()),
                DeferredSubmit::Moved => None,
            },
            Self::Failed(_) | Self::Compound(_) => None,
        }
    }

    #[cold]
    pub(crate) fn watch(&mut self, waker: &Waker) -> DeferredWatch {
        match self {
            Self::Submit(waiting) => {
                let waiting = waiting.get_mut();
                let mut wakers = Wakers::new();
                let watch = waiting.advance(Some(waker.clone()), &mut wakers);
                wake_all(wakers);
                match self.take_in_flight() {
                    Some(pending) => DeferredWatch::InFlight(pending),
                    None => DeferredWatch::Wait(watch),
                }
            }
            Self::Failed(_) => DeferredWatch::Wait(Watch::Complete),
            Self::Compound(compound) => DeferredWatch::Wait(if compound.watch(waker) {
                Watch::Complete
            } else {
                Watch::Waiting
            }),
        }
    }

    /// Takes the buffer of a task that was not submitted. The task must not be submitted afterwards.
    pub(crate) fn take_back(&self) -> Option<Option<Buffer>> {
        let Self::Submit(waiting) = self else {
            return None;
        };
        match &mut *waiting.lock() {
            DeferredSubmit::Unsubmitted(task) => Some(task.take_buffer()),
            _ => None,
        }
    }

    /// The connection of a task that is not submitted, as a number.
    pub(crate) fn waits_in(&self) -> Option<usize> {
        match self {
            Self::Submit(waiting) => match &*waiting.try_lock()? {
                DeferredSubmit::Unsubmitted(task) => Some(task.connection_id()),
                _ => None,
            },
            Self::Failed(_) | Self::Compound(_) => None,
        }
    }

    /// Takes the waker that the task was last polled with, unless it was woken since. The caller registers it again
    /// later.
    pub(crate) fn take_waker(&mut self) -> Option<Waker> {
        match self {
            Self::Submit(waiting) => match waiting.get_mut() {
                DeferredSubmit::Unsubmitted(task) => task.take_waker(),
                _ => None,
            },
            Self::Failed(_) => None,
            Self::Compound(compound) => compound.take_waker(),
        }
    }

    /// Takes out a task that was submitted through a shared reference.
    pub(crate) fn take_in_flight(&mut self) -> Option<Pending> {
        let Self::Submit(waiting) = self else {
            return None;
        };
        let waiting = waiting.get_mut();
        match std::mem::replace(waiting, DeferredSubmit::Moved) {
            DeferredSubmit::InFlight(pending) => Some(pending),
            other => {
                *waiting = other;
                None
            }
        }
    }

    /// Gives up the seat in the queue, because the task is not going to be polled for a while.
    pub(crate) fn leave_queue(&mut self) {
        if let Self::Submit(waiting) = self
            && let DeferredSubmit::Unsubmitted(task) = waiting.get_mut()
        {
            task.leave_queue();
        }
    }

    /// Blocks until the task has ended, and makes its result.
    #[cold]
    pub(crate) fn wait(
        self,
        finish: fn(Finished<'_>) -> Result<T, TaskError>,
    ) -> Result<T, TaskError> {
        match self {
            Self::Submit(waiting) => {
                let mut waiting = waiting.into_inner();
                waiting.submit();
                match waiting {
                    DeferredSubmit::InFlight(pending) => pending.wait(finish),
                    DeferredSubmit::Refused(refused) => refused.finish(finish),
                    DeferredSubmit::Unsubmitted(_) | DeferredSubmit::Moved => {
                        unreachable!("it was submitted")
                    }
                }
            }
            Self::Failed(error) => Err(error),
            Self::Compound(mut compound) => {
                let waker = unpark_this_thread();
                let _unparking = UnparkOnDrop;
                while !compound.watch(&waker) {
                    thread::park();
                }
                compound.into_result()
            }
        }
    }
}

impl DeferredSubmit {
    /// Submits if that needs no waiting, else registers the waker, if there is one, to be woken when a record is
    /// available.
    fn advance(&mut self, waker: Option<Waker>, wakers: &mut Wakers) -> Watch {
        let Self::Unsubmitted(task) = self else {
            return Watch::Complete;
        };
        match task.attempt(waker, wakers) {
            Attempt::NoRecord => Watch::Waiting,
            Attempt::Unwatched => Watch::Impossible,
            attempt => {
                self.become_of(attempt);
                Watch::Complete
            }
        }
    }

    /// Submits. Blocks until there is a record.
    fn submit(&mut self) {
        if let Self::Unsubmitted(task) = self {
            let attempt = task.submit();
            self.become_of(attempt);
        }
    }

    fn become_of(&mut self, attempt: Attempt) {
        let Self::Unsubmitted(task) = self else {
            return;
        };
        let next = match attempt {
            Attempt::Submitted(lane, flight) => Self::InFlight(Pending::new(&lane, flight)),
            Attempt::Refused(error) => {
                Self::Refused(Refused::new(task.call(), task.take_buffer(), error))
            }
            Attempt::NoRecord | Attempt::Unwatched => return,
        };
        *self = next;
    }
}
