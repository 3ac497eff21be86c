//! Sets of tasks: waiting for whichever ends first.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::thread;
use std::time::Instant;

use crate::adaptive_spin::SpinOutcome;
use crate::reentrancy::{is_inside, refusal};
use crate::task::pending::Watch;
use crate::task::{TAKEN, Task};
use crate::task_error::TaskError;
use crate::wakers::{UnparkOnDrop, unpark_this_thread};

/// Tasks in flight of which the one that ends first is wanted first, such as the transfers that keep a device busy: a
/// slow transfer does not hold up the others.
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
        if is_inside() {
            return None;
        }
        let position = self.first_complete()?;
        Some(self.tasks.remove(position)?.wait())
    }

    /// Blocks until a task has ended, and gives its result; `None` if the set is empty. Unsubmitted tasks are submitted
    /// in order, as their lane has room. Spins for a bounded time, then sleeps.
    pub fn wait_any(&mut self) -> Option<Result<T, TaskError>> {
        if self.tasks.is_empty() {
            return None;
        }
        if is_inside() {
            // The error is that of no task: all of them stay.
            return Some(Err(refusal("waiting for a task").into()));
        }
        // The lane of any task in flight: unsubmitted ones come after those.
        let lane = self.tasks.iter().find_map(Task::lane);
        let ready = || self.first_complete().is_some();
        let spun = match lane {
            Some(lane) => lane.adaptive_spin.spin(&*lane.memory, ready),
            None if ready() => SpinOutcome::Ready,
            None => SpinOutcome::TimedOut,
        };
        if spun != SpinOutcome::Ready {
            let begin = Instant::now();
            self.sleep();
            if let Some(lane) = lane {
                lane.adaptive_spin.learn_from_sleep(spun, begin.elapsed());
            }
        }
        self.try_wait_any()
    }

    /// As [`Self::wait_any`], without blocking. Dropping the future leaves the set as it is: no result is
    /// lost.
    pub async fn async_wait_any(&mut self) -> Option<Result<T, TaskError>> {
        poll_fn(|context| {
            if self.tasks.is_empty() {
                return Poll::Ready(None);
            }
            if is_inside() {
                return Poll::Ready(Some(Err(refusal("waiting for a task").into())));
            }
            match self.watch(context.waker()) {
                Watch::Complete => return Poll::Ready(self.try_wait_any()),
                Watch::Waiting => {}
                // The executor has to poll again and again.
                Watch::Impossible => context.waker().wake_by_ref(),
            }
            Poll::Pending
        })
        .await
    }

    /// The position of the first task that has ended.
    ///
    /// Submits tasks in order until one finds the lane full: then others of the same connection are not tried.
    fn first_complete(&self) -> Option<usize> {
        let mut full = FullLanes::default();
        self.tasks.iter().position(|task| {
            if full.holds_up(task) {
                return false;
            }
            let is_complete = task.is_complete();
            full.learn(task);
            is_complete
        })
    }

    /// Sleeps until a task has ended.
    #[cold]
    fn sleep(&mut self) {
        let waker = unpark_this_thread();
        let _unparking = UnparkOnDrop;
        loop {
            match self.watch(&waker) {
                Watch::Complete => return,
                Watch::Waiting => thread::park(),
                Watch::Impossible => thread::yield_now(),
            }
        }
    }

    /// Registers a waker to be woken when a task has ended, or may be submitted, unless one has ended already.
    fn watch(&mut self, waker: &Waker) -> Watch {
        let mut watch = Watch::Waiting;
        let mut full = FullLanes::default();
        for task in &mut self.tasks {
            if full.holds_up(task) {
                continue;
            }
            match task.watch(waker) {
                Watch::Complete => return Watch::Complete,
                Watch::Waiting => full.learn(task),
                Watch::Impossible => watch = Watch::Impossible,
            }
        }
        watch
    }
}

/// Connections whose lane of this thread was found full.
#[derive(Default)]
struct FullLanes(Vec<usize>);

impl FullLanes {
    fn holds_up<T>(&self, task: &Task<T>) -> bool {
        !self.0.is_empty()
            && task
                .waits_in()
                .is_some_and(|connection| self.0.contains(&connection))
    }

    /// Learns from a task that was just tried.
    fn learn<T>(&mut self, task: &Task<T>) {
        self.0.extend(task.waits_in());
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
