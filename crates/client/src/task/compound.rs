//! Tasks of several steps: a future that awaits other tasks, behind the handle of a task.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::task_error::TaskError;

type StepsFuture<T> = Pin<Box<dyn Future<Output = Result<T, TaskError>> + Send>>;

/// A task of several steps.
pub(crate) struct Compound<T>(Mutex<CompoundState<T>>);

enum CompoundState<T> {
    Going {
        steps: StepsFuture<T>,
        /// The waker that it was last polled with.
        waker: Waker,
    },
    Ended(Result<T, TaskError>),
}

impl<T> Compound<T> {
    /// Polls the steps for the first time, which submits what can be submitted at once.
    pub(crate) fn new(steps: impl Future<Output = Result<T, TaskError>> + Send + 'static) -> Self {
        let mut state = CompoundState::Going {
            steps: Box::pin(steps),
            waker: Waker::noop().clone(),
        };
        state.go_on();
        Self(Mutex::new(state))
    }

    /// Polls the steps, unless they have ended. Returns whether they have; if not, the waker is woken when they can
    /// continue.
    pub(crate) fn watch(&mut self, waker: &Waker) -> bool {
        let state = self.0.get_mut();
        if let CompoundState::Going { waker: last, .. } = state {
            last.clone_from(waker);
        }
        state.go_on()
    }

    /// As [`Self::watch`], with the waker of the last poll.
    pub(crate) fn is_complete(&self) -> bool {
        // Whoever holds the lock polls the steps.
        self.0.try_lock().is_some_and(|mut state| state.go_on())
    }

    /// Whether the steps had ended when they were last polled.
    pub(crate) fn has_ended(&self) -> bool {
        self.0
            .try_lock()
            .is_some_and(|state| matches!(*state, CompoundState::Ended(_)))
    }

    /// Takes the waker that the steps were last polled with.
    pub(crate) fn take_waker(&mut self) -> Option<Waker> {
        match self.0.get_mut() {
            CompoundState::Going { waker, .. } => {
                Some(std::mem::replace(waker, Waker::noop().clone()))
            }
            CompoundState::Ended(_) => None,
        }
    }

    /// The result of steps that have ended.
    pub(crate) fn into_result(self) -> Result<T, TaskError> {
        match self.0.into_inner() {
            CompoundState::Ended(result) => result,
            CompoundState::Going { .. } => panic!("the result was asked for before there was one"),
        }
    }
}

impl<T> CompoundState<T> {
    /// Polls the steps, unless they have ended. Returns whether they have.
    fn go_on(&mut self) -> bool {
        let Self::Going { steps, waker } = self else {
            return true;
        };
        match steps.as_mut().poll(&mut Context::from_waker(waker)) {
            Poll::Pending => false,
            Poll::Ready(result) => {
                *self = Self::Ended(result);
                true
            }
        }
    }
}
