//! Threads for work that may block: they come when needed and go when idle.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

type Job = Box<dyn FnOnce() + Send>;

/// Jobs that run at the same time. A further one waits for its turn.
const MAX_THREADS: usize = 32;

/// How long a thread without a job stays.
const LINGER: Duration = Duration::from_secs(1);

/// A pool of threads for blocking jobs.
#[derive(Clone, Default)]
pub(crate) struct Jobs {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    job_came: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Jobs {
    /// Runs a job on a thread of the pool. Where the system gives no thread, and none is there,
    /// the job is dropped, and with it whatever it was to complete.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state.lock();
        state.queue.push_back(Box::new(job));
        if state.queue.len() <= state.idle || state.threads >= MAX_THREADS {
            self.shared.job_came.notify_one();
            return;
        }
        let shared = Arc::clone(&self.shared);
        let builder = std::thread::Builder::new().name("chimaera-job".to_owned());
        match builder.spawn(move || work(&shared)) {
            Ok(_) => state.threads += 1,
            Err(error) => {
                tracing::error!("cannot start a thread for a blocking job: {error}");
                let unservable = if state.threads == 0 {
                    state.queue.pop_back()
                } else {
                    None
                };
                drop(state);
                drop(unservable);
            }
        }
    }
}

fn work(shared: &Shared) {
    let mut state = shared.state.lock();
    loop {
        if let Some(job) = state.queue.pop_front() {
            drop(state);
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("a blocking job panicked: this is a mistake in the runtime");
            }
            state = shared.state.lock();
            continue;
        }
        state.idle += 1;
        let waited = shared.job_came.wait_for(&mut state, LINGER);
        state.idle -= 1;
        if waited.timed_out() && state.queue.is_empty() {
            state.threads -= 1;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn jobs_that_wait_for_each_other_run_at_the_same_time() {
        let jobs = Jobs::default();
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
            finished
                .recv_timeout(Duration::from_secs(30))
                .expect("both run");
        }
    }

    #[test]
    fn a_job_that_panics_takes_nothing_along() {
        let jobs = Jobs::default();
        let (done, finished) = channel();
        for index in 0..2 * MAX_THREADS {
            let done = done.clone();
            jobs.run(move || {
                done.send(index).expect("send");
                panic!("on purpose");
            });
        }
        for _ in 0..2 * MAX_THREADS {
            finished
                .recv_timeout(Duration::from_secs(30))
                .expect("all run");
        }
    }
}
