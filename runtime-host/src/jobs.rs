//! Threads for work that may block: one stays, further ones are started when needed and end when idle.
//!
//! The thread that stays is started before the first job. So every job is carried out, however few threads the system
//! still gives: where it gives none, a job waits for its turn, and no job is lost.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use chimaera_thread::condition::{Condvar, Mutex};
use chimaera_thread::{self as thread, NoThread};

use crate::log;

type Job = Box<dyn FnOnce() + Send>;

/// How long a further thread stays without a job.
const LINGER: Duration = Duration::from_secs(1);

/// Threads for jobs of one kind. They end when this is dropped, after the last job.
pub(crate) struct Jobs {
    name: &'static str,
    /// The most jobs that run at the same time. A further one waits for its turn.
    max_threads: usize,
    shared: Arc<JobQueue>,
}

#[derive(Default)]
struct JobQueue {
    state: Mutex<JobQueueState>,
    job_came: Condvar,
}

#[derive(Default)]
struct JobQueueState {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
    /// No more jobs are coming.
    ended: bool,
    /// The log says already that the system gives no further thread. It says so again after one was given.
    has_logged_lack: bool,
}

impl Jobs {
    /// Starts the thread that stays; at most `max_threads` run at the same time.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(name: &'static str, max_threads: usize) -> Result<Self, NoThread> {
        let shared = Arc::new(JobQueue::default());
        shared.state.lock().threads = 1;
        let own = Arc::clone(&shared);
        thread::spawn(name, move || work(&own, None))?;
        Ok(Self {
            name,
            max_threads,
            shared,
        })
    }

    /// Runs a job on one of the threads. Does not block.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state.lock();
        state.queue.push_back(Box::new(job));
        let wants_thread = state.queue.len() > state.idle && state.threads < self.max_threads;
        state.threads += usize::from(wants_thread);
        drop(state);
        if wants_thread {
            self.add_thread();
        } else {
            self.shared.job_came.notify_one();
        }
    }

    /// Starts a further thread, which is counted already. If the system gives none, the existing threads do its work.
    fn add_thread(&self) {
        let own = Arc::clone(&self.shared);
        let spawned = thread::spawn(self.name, move || work(&own, Some(LINGER)));
        let mut state = self.shared.state.lock();
        let Err(refused) = spawned else {
            state.has_logged_lack = false;
            return;
        };
        state.threads -= 1;
        let is_news = !std::mem::replace(&mut state.has_logged_lack, true);
        drop(state);
        self.shared.job_came.notify_one();
        if is_news {
            log::warning(format_args!(
                "{refused}; until then, what may block is done by fewer threads"
            ));
        }
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.shared.state.lock().ended = true;
        self.shared.job_came.notify_all();
    }
}

/// What each thread runs. A thread with `patience` ends when no job has come for that long.
fn work(shared: &JobQueue, patience: Option<Duration>) {
    let mut state = shared.state.lock();
    loop {
        if let Some(job) = state.queue.pop_front() {
            drop(state);
            if let Err(payload) = catch_unwind(AssertUnwindSafe(job)) {
                // Dropping the payload might panic in turn, and end the thread.
                std::mem::forget(payload);
                log::error(format_args!(
                    "a blocking job panicked: this is a mistake in the runtime"
                ));
            }
            state = shared.state.lock();
            continue;
        }
        if state.ended {
            break;
        }
        state.idle += 1;
        let has_waited = match patience {
            Some(patience) => shared.job_came.wait_for(&mut state, patience),
            None => {
                shared.job_came.wait(&mut state);
                false
            }
        };
        state.idle -= 1;
        if has_waited && state.queue.is_empty() {
            break;
        }
    }
    state.threads -= 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    const PATIENCE: Duration = Duration::from_secs(30);

    fn jobs(max_threads: usize) -> Jobs {
        Jobs::start("chimaera-job", max_threads).expect("a thread")
    }

    /// Runs a job that waits until the returned sender is dropped.
    fn occupy(jobs: &Jobs) -> std::sync::mpsc::Sender<()> {
        let (release, released) = channel::<()>();
        let (begin, begun) = channel();
        jobs.run(move || {
            begin.send(()).expect("listens");
            let _ = released.recv();
        });
        begun.recv_timeout(PATIENCE).expect("it begins");
        release
    }

    fn numbered(jobs: &Jobs, count: usize) -> Receiver<usize> {
        let (done, finished) = channel();
        for number in 0..count {
            let done = done.clone();
            jobs.run(move || done.send(number).expect("listens"));
        }
        finished
    }

    #[test]
    fn jobs_that_wait_for_each_other_run_at_the_same_time() {
        let jobs = jobs(32);
        let (first, second) = (channel(), channel());
        let (done, finished) = channel();
        let other = done.clone();
        jobs.run(move || {
            first.0.send(()).expect("send");
            second.1.recv().expect("receive");
            done.send(()).expect("send");
        });
        jobs.run(move || {
            first.1.recv().expect("receive");
            second.0.send(()).expect("send");
            other.send(()).expect("send");
        });
        for _ in 0..2 {
            finished.recv_timeout(PATIENCE).expect("both run");
        }
    }

    #[test]
    fn jobs_beyond_the_threads_are_done_in_their_turn() {
        let jobs = jobs(2);
        let (one, two) = (occupy(&jobs), occupy(&jobs));
        let finished = numbered(&jobs, 5);
        assert!(finished.try_recv().is_err(), "every thread is taken");
        drop(one);
        for number in 0..5 {
            assert_eq!(finished.recv_timeout(PATIENCE), Ok(number));
        }
        drop(two);
    }

    #[test]
    fn jobs_that_were_left_are_done_after_the_end() {
        let jobs = jobs(1);
        let one = occupy(&jobs);
        let finished = numbered(&jobs, 3);
        let shared = Arc::downgrade(&jobs.shared);
        drop(jobs);
        drop(one);
        for number in 0..3 {
            assert_eq!(finished.recv_timeout(PATIENCE), Ok(number));
        }
        let end = std::time::Instant::now() + PATIENCE;
        while shared.strong_count() != 0 {
            assert!(std::time::Instant::now() < end, "the thread ends");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_job_that_panics_takes_nothing_along() {
        /// A panic's payload that panics when it is dropped.
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("on purpose, while going");
            }
        }
        let jobs = jobs(2);
        let (done, finished) = channel();
        for index in 0..8 {
            let done = done.clone();
            jobs.run(move || {
                done.send(index).expect("send");
                std::panic::panic_any(Bomb);
            });
        }
        for _ in 0..8 {
            finished.recv_timeout(PATIENCE).expect("all run");
        }
    }
}
