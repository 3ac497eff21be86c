//! The watchdog: a thread that looks now and then whether the others go on, and says so where one does not.
//!
//! It watches the workers and the threads of the control side that carry out jobs: those that call containers. Each of
//! them notes which call it is in ([`crate::calls`]). What lasts longer than [`PATIENCE`] is a **hang**: the log is
//! told when it begins and when it is over, and the status names it. A worker that is in no module's call hangs too if
//! it does not go on: that is a mistake in the runtime.
//!
//! Laws of this module:
//! - It ends nothing and fences nothing, and nobody waits for it.
//! - What stood still together with the watchdog (a process that was stopped, a machine without processor time) is no
//!   hang: between two looks no more time counts than was meant to pass.

mod hang;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chimaera_proto::hangs::{Hang, MAX_HANGS};
use chimaera_thread::condition::{Condvar, Mutex};
use chimaera_thread::{self as thread, JoinHandle, NoThread};

use crate::calls::{Watched, Word};
use crate::log;
use hang::{Begun, Stay};

/// How long a call may last before it is a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time between two looks while every worker sleeps and no thread is in a call: waiting costs nothing.
const IDLE_INTERVAL: Duration = Duration::from_secs(2);

/// The threads that are watched.
#[derive(Default)]
pub(crate) struct Watchlist {
    state: Mutex<WatchlistState>,
    ended: Condvar,
}

#[derive(Default)]
struct WatchlistState {
    threads: Vec<WatchedThread>,
    last_number: u64,
    /// No more looks are wanted.
    has_ended: bool,
}

struct WatchedThread {
    number: u64,
    word: Word,
    name: String,
    thread_id: i32,
    is_worker: bool,
    /// What it was found in at the last look, if it may come to hang there.
    stay: Option<Stay>,
}

/// Has the calling thread watched until it is dropped, on the same thread.
pub(crate) struct Watching {
    list: Arc<Watchlist>,
    number: u64,
    _watched: Watched,
}

impl Watchlist {
    /// Has the calling thread watched: a worker, which has to go on all the time, or another thread, which has to in
    /// modules' calls.
    pub(crate) fn watch(self: &Arc<Self>, is_worker: bool) -> Watching {
        // SAFETY: the word is only used under the lock of the list, from which `Watching` removes it before it drops
        // what was made here. It does that on this thread, which it does not leave.
        let watched = unsafe { Watched::this_thread() };
        let name = thread::name().unwrap_or_else(|| "a thread without a name".to_owned());
        let number = self.add(watched.word(), name, is_worker);
        Watching {
            list: Arc::clone(self),
            number,
            _watched: watched,
        }
    }

    fn add(&self, word: Word, name: String, is_worker: bool) -> u64 {
        let mut state = self.state.lock();
        state.last_number += 1;
        let number = state.last_number;
        state.threads.push(WatchedThread {
            number,
            word,
            name,
            thread_id: nix::unistd::gettid().as_raw(),
            is_worker,
            stay: None,
        });
        number
    }

    fn remove(&self, number: u64) {
        let mut state = self.state.lock();
        let place = state
            .threads
            .iter()
            .position(|thread| thread.number == number);
        let removed = place.map(|place| state.threads.swap_remove(place));
        drop(state);
        if let Some(end) = removed.and_then(|thread| thread.begun().cloned()) {
            end.tell_of_end();
        }
    }

    /// How many calls hang, and the first of them.
    pub(crate) fn hangs(&self) -> (usize, Vec<Hang>) {
        let state = self.state.lock();
        let all = || {
            state
                .threads
                .iter()
                .filter_map(|thread| Some((thread, thread.begun()?)))
        };
        let first = all().take(MAX_HANGS).map(|(thread, begun)| Hang {
            place: begun.place.clone(),
            thread: thread.name.clone(),
            thread_id: thread.thread_id,
            is_worker: thread.is_worker,
            seconds: begun.lasted.as_secs(),
        });
        (all().count(), first.collect())
    }

    /// Looks at every thread. `passed` counts since the last look. Gives the time until the next one.
    fn look(&self, passed: Duration) -> Duration {
        let mut state = self.state.lock();
        let mut news = Vec::new();
        let mut is_idle = true;
        for thread in &mut state.threads {
            is_idle &= thread.look(passed, &mut news);
        }
        drop(state);
        for (begun, is_over) in news {
            match is_over {
                false => begun.tell_of_beginning(),
                true => begun.tell_of_end(),
            }
        }
        if is_idle { IDLE_INTERVAL } else { INTERVAL }
    }

    fn end(&self) {
        self.state.lock().has_ended = true;
        self.ended.notify_all();
    }

    /// What the watchdog's thread does.
    fn run(&self) {
        let (mut interval, mut last) = (INTERVAL, Instant::now());
        let mut state = self.state.lock();
        while !state.has_ended {
            let next = last + interval;
            if !self.ended.wait_until(&mut state, next) {
                continue;
            }
            let now = Instant::now();
            let passed = (now - last).min(interval + INTERVAL);
            last = now;
            interval = state.unlocked(|| self.look(passed));
        }
    }
}

impl WatchedThread {
    /// The hang that the log was told of.
    fn begun(&self) -> Option<&Begun> {
        self.stay.as_ref()?.begun.as_ref()
    }

    /// Looks what the thread is in. Adds what begins and what is over to `news`. Returns whether the thread has nothing
    /// to do.
    fn look(&mut self, passed: Duration, news: &mut Vec<(Begun, bool)>) -> bool {
        let (found, is_same) = self.word.look();
        let goes_on = is_same && self.stay.as_ref().is_some_and(|stay| stay.found == found);
        if goes_on && let Some(stay) = &mut self.stay {
            stay.lasted += passed;
            if let Some(begun) = &mut stay.begun {
                begun.lasted = stay.lasted;
            } else if stay.lasted >= PATIENCE {
                let begun = Begun::new(
                    found,
                    stay.lasted,
                    self.thread_id,
                    &self.name,
                    self.is_worker,
                );
                news.push((begun.clone(), false));
                stay.begun = Some(begun);
            }
            return false;
        }
        if let Some(Stay {
            begun: Some(mut begun),
            lasted,
            ..
        }) = self.stay.take()
        {
            begun.lasted = lasted + passed;
            news.push((begun, true));
        }
        let is_idle = match self.is_worker {
            true => found.is_asleep(),
            false => found.is_in_no_call(),
        };
        if !is_idle {
            self.stay = Some(Stay {
                found,
                lasted: Duration::ZERO,
                begun: None,
            });
        }
        is_idle
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.list.remove(self.number);
    }
}

/// The watchdog's thread, which ends when this is dropped.
pub(crate) struct WatchdogThread {
    list: Arc<Watchlist>,
    thread: Option<JoinHandle<()>>,
}

impl WatchdogThread {
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(list: &Arc<Watchlist>) -> Result<Self, NoThread> {
        let own = Arc::clone(list);
        let thread = thread::spawn("chimaera-watchdog", move || own.run())?;
        Ok(Self {
            list: Arc::clone(list),
            thread: Some(thread),
        })
    }

    /// Lets go of the thread without ending it: in a forked child, which does not have it.
    pub(crate) fn forget(mut self) {
        std::mem::forget(self.thread.take());
        std::mem::forget(self);
    }
}

impl Drop for WatchdogThread {
    fn drop(&mut self) {
        self.list.end();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error("the watchdog panicked: this is a mistake in the runtime");
        }
    }
}
