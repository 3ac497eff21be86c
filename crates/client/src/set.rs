//! Waiting for whichever task ends first.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use crate::error::TaskError;
use crate::task::{TAKEN, Task, Watch};
use crate::waiting::Looked;

/// Tasks in flight of which the one that ends first is wanted first, such as the transfers that keep
/// a device busy: with it a slow transfer does not hold up those behind it.
///
/// ```no_run
/// # use chimaera_client::{Error, Task, TaskError, TaskSet};
/// # fn next_task() -> Option<Task<u64>> { None }
/// # fn main() -> Result<(), TaskError> {
/// let mut tasks = TaskSet::new();
/// tasks.extend(std::iter::from_fn(next_task).take(32));
/// while let Some(result) = tasks.wait_any() {
///     println!("{}", result?);
///     tasks.extend(next_task());
/// }
/// # Ok(())
/// # }
/// ```
///
/// Dropping the set gives up the results, not the tasks, as with [`Task`].
pub struct TaskSet<T> {
    /// In the order in which they were added.
    tasks: VecDeque<Task<T>>,
}

impl<T> TaskSet<T> {
    /// A set without tasks. Does not allocate.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            tasks: VecDeque::new(),
        }
    }

    /// Adds a task, which may be of any connection.
    ///
    /// # Panics
    /// If the task's result was taken before.
    pub fn push(&mut self, task: Task<T>) {
        assert!(!task.is_taken(), "{TAKEN}");
        self.tasks.push_back(task);
    }

    /// Tasks whose results were not taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there are no tasks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// The result of a task that has ended, of several the one that was added first; `None` if none
    /// has. Does not block.
    pub fn try_wait_any(&mut self) -> Option<Result<T, TaskError>> {
        let position = self.tasks.iter().position(Task::is_complete)?;
        Some(self.tasks.remove(position)?.wait())
    }

    /// Blocks until a task has ended, and gives its result; `None` if the set is empty. Spins for a
    /// bounded time, then sleeps.
    pub fn wait_any(&mut self) -> Option<Result<T, TaskError>> {
        let lane = self.tasks.front()?.lane();
        let ready = || self.tasks.iter().any(Task::is_complete);
        let looked = lane.patience.spin(&*lane.memory, ready);
        if looked != Looked::Ready {
            let begin = Instant::now();
            self.sleep();
            lane.patience.learn_from_sleep(looked, begin.elapsed());
        }
        self.try_wait_any()
    }

    /// Sleeps until a task has ended.
    #[cold]
    fn sleep(&self) {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        loop {
            let mut is_woken = true;
            for task in &self.tasks {
                match task.watch(&waker) {
                    Watch::Complete => return,
                    Watch::Waiting => {}
                    Watch::Impossible => is_woken = false,
                }
            }
            if is_woken {
                thread::park();
            } else {
                thread::yield_now();
            }
        }
    }
}

/// Wakes a thread that parks.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl<T> Default for TaskSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Extend<Task<T>> for TaskSet<T> {
    fn extend<I: IntoIterator<Item = Task<T>>>(&mut self, tasks: I) {
        tasks.into_iter().for_each(|task| self.push(task));
    }
}

impl<T> fmt::Debug for TaskSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.tasks).finish()
    }
}
