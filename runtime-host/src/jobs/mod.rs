//! Threads for work that may block: one stays, further ones are started when needed and end when idle.
//!
//! The thread that stays is started before the first job. So every job is carried out, however few threads the system
//! still gives: where it gives none, a job waits for its turn, and no job is lost. Whose turn it is, [`turns`] says.

mod turns;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use chimaera_thread::condition::{Condvar, Mutex};
use chimaera_thread::{self as thread, NoThread};

use crate::log;
use crate::watchdog::Watchlist;
use turns::{Job, Turns};
pub(crate) use turns::{JobOwner, Share};

/// How long a further thread stays without a job.
const LINGER: Duration = Duration::from_secs(1);

/// Threads for jobs of one kind. They end when this is dropped, after the last job.
pub(crate) struct Jobs {
    name: &'static str,
    /// The most jobs that run at the same time. A further one waits for its turn.
    max_threads: usize,
    shared: Arc<JobQueue>,
    watchlist: Arc<Watchlist>,
}

struct JobQueue {
    state: Mutex<JobQueueState>,
    job_came: Condvar,
}

struct JobQueueState {
    turns: Turns,
    threads: usize,
    idle: usize,
    /// No more jobs are coming.
    ended: bool,
    /// The log says already that the system gives no further thread. It says so again after one was given.
    has_logged_lack: bool,
}

impl Jobs {
    /// Starts the thread that stays; at most `max_threads` run at the same time, of which users have this share.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(
        name: &'static str,
        max_threads: usize,
        share: Share,
        watchlist: &Arc<Watchlist>,
    ) -> Result<Self, NoThread> {
        let state = JobQueueState {
            turns: Turns::new(share),
            threads: 1,
            idle: 0,
            ended: false,
            has_logged_lack: false,
        };
        let shared = Arc::new(JobQueue {
            state: Mutex::new(state),
            job_came: Condvar::new(),
        });
        let (own, list) = (Arc::clone(&shared), Arc::clone(watchlist));
        thread::spawn(name, move || work(&own, &list, None))?;
        Ok(Self {
            name,
            max_threads,
            shared,
            watchlist: Arc::clone(watchlist),
        })
    }

    /// Runs a job of the host's own on one of the threads. Does not block.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.run_for(JobOwner::Host, job);
    }

    /// Runs a job for somebody on one of the threads, when it is their turn. Does not block.
    pub(crate) fn run_for(&self, owner: JobOwner, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state.lock();
        state.turns.push(owner, Box::new(job));
        let wants_thread =
            state.turns.ready_count() > state.idle && state.threads < self.max_threads;
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
        let (own, list) = (Arc::clone(&self.shared), Arc::clone(&self.watchlist));
        let spawned = thread::spawn(self.name, move || work(&own, &list, Some(LINGER)));
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
fn work(shared: &JobQueue, watchlist: &Arc<Watchlist>, patience: Option<Duration>) {
    let _watching = watchlist.watch(false);
    let mut state = shared.state.lock();
    loop {
        if let Some((owner, job)) = state.turns.next() {
            drop(state);
            carry_out(job);
            state = shared.state.lock();
            state.turns.finish(owner);
            continue;
        }
        if state.ended && state.turns.is_empty() {
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
        if has_waited && state.turns.ready_count() == 0 {
            break;
        }
    }
    state.threads -= 1;
}

fn carry_out(job: Job) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(job)) {
        // Dropping the payload might panic in turn, and end the thread.
        std::mem::forget(payload);
        log::error(format_args!(
            "a blocking job panicked: this is a mistake in the runtime"
        ));
    }
}

#[cfg(test)]
mod tests;
