//! What the daemon does with signals. `docs/OPERATING.md` has the table.
//!
//! Every thread blocks all signals but those that report a thread's own fault. One thread takes them, one after the
//! other, and forgets those that nothing is to be done about. A signal that the kernel sends to one thread for what it
//! did (SIGXFSZ, SIGPIPE) stays blocked there, and the call that caused it fails with an error.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chimaera_runtime::{Stopper, log};
use chimaera_thread as thread;
use nix::sys::signal::Signal;

use crate::failure::CommandFailure;

/// Exit code of a daemon that a second signal has ended at once.
const CUT_SHORT: u8 = 1;

/// What a hangup does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hangup {
    /// The terminal was closed, and the daemon stops.
    Stops,
    /// Somebody has moved the log file, and the daemon opens a new one.
    ReopensTheLog,
}

#[derive(Debug, PartialEq, Eq)]
enum Reaction {
    Stop,
    ReopenLog,
    Nothing,
}

/// Blocks the signals in this thread and in those that it starts.
pub(super) fn block() -> Result<(), CommandFailure> {
    let blocked = thread::foreign_signals().thread_block();
    blocked.map_err(|error| CommandFailure::new(format!("cannot block signals: {error}")))
}

/// Stops a host on a signal, also on one that came before the host was there.
#[derive(Clone, Default)]
pub(super) struct StopOnSignal {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    is_asked_for: bool,
    stopper: Option<Stopper>,
}

impl StopOnSignal {
    /// From now on signals stop this host. If one came before, it is stopped at once.
    pub(super) fn stop_on_signal(&self, stopper: Stopper) {
        let mut state = self.lock();
        if state.is_asked_for {
            stopper.stop();
        }
        state.stopper = Some(stopper);
    }

    /// Stops the host, now or as soon as it is there.
    fn ask(&self) {
        let mut state = self.lock();
        if let Some(stopper) = &state.stopper {
            stopper.stop();
        }
        state.is_asked_for = true;
    }

    /// Has the host let go of what others wait for: the process ends.
    fn cut_short(&self) {
        let stopper = self.lock().stopper.clone();
        if let Some(stopper) = stopper {
            stopper.cut_short();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread that takes signals.
pub(super) fn watch(hangup: Hangup) -> Result<StopOnSignal, CommandFailure> {
    let stop = StopOnSignal::default();
    let mask = ignored_at_start();
    let told = stop.clone();
    let thread = thread::spawn("chimaera-signals", move || {
        let signals = thread::foreign_signals();
        let mut asked = None;
        loop {
            // A real-time signal has no name, and no meaning here.
            let Ok(signal) = Signal::try_from(thread::take_signal(&signals)) else {
                continue;
            };
            match reaction(signal, hangup, mask) {
                Reaction::Stop => stop_or_end(&told, &mut asked, signal),
                Reaction::ReopenLog => log::reopen(),
                Reaction::Nothing => log::debug(format_args!("{signal}: nothing to be done")),
            }
        }
    });
    thread
        .map_err(|refused| CommandFailure::new(format!("cannot start the runtime: {refused}")))?;
    Ok(stop)
}

/// Signals within this time after the first are taken for the same request: programs that pass a signal on to a process
/// and its group, as `timeout` does, send it twice.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// The first signal stops the host in good order; a second one, some time after it, ends the process at
/// once. `asked` is when the first one came.
fn stop_or_end(stop: &StopOnSignal, asked: &mut Option<Instant>, signal: Signal) {
    stop.ask();
    match *asked {
        None => {
            *asked = Some(Instant::now());
            log::info(format_args!(
                "{signal}: stopping; a second signal after {} s or more ends the daemon at once",
                SAME_REQUEST.as_secs()
            ));
        }
        Some(first) if first.elapsed() < SAME_REQUEST => {
            log::info(format_args!("{signal} again: stopping already"));
        }
        Some(_) => {
            log::error(format_args!(
                "{signal}, the second signal: the daemon ends at once, and what was not flushed may be \
                 lost"
            ));
            stop.cut_short();
            log::flush(log::END_PATIENCE);
            thread::end_process(CUT_SHORT);
        }
    }
}

/// What a signal does. `ignored` is the mask of signals that the daemon's parent had set to be ignored, as `nohup` does
/// with SIGHUP, and a shell with SIGINT for what runs in the background.
fn reaction(signal: Signal, hangup: Hangup, ignored: u64) -> Reaction {
    let is_ignored = ignored & 1 << (signal as u32 - 1) != 0;
    match signal {
        Signal::SIGTERM | Signal::SIGPWR => Reaction::Stop,
        Signal::SIGHUP if hangup == Hangup::ReopensTheLog => Reaction::ReopenLog,
        Signal::SIGINT | Signal::SIGQUIT | Signal::SIGHUP if !is_ignored => Reaction::Stop,
        _ => Reaction::Nothing,
    }
}

/// The mask of signals that this process was started to ignore: the first signal has the lowest bit. A blocked signal
/// is queued even if it is ignored, so only the mask tells.
fn ignored_at_start() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_ignored_when_the_daemon_was_started_does_not_stop_it() {
        let ignored = 1 << (Signal::SIGHUP as u32 - 1) | 1 << (Signal::SIGTERM as u32 - 1);
        let react = |signal| reaction(signal, Hangup::Stops, ignored);
        assert_eq!(react(Signal::SIGHUP), Reaction::Nothing);
        assert_eq!(react(Signal::SIGINT), Reaction::Stop);
        assert_eq!(
            react(Signal::SIGTERM),
            Reaction::Stop,
            "this one always does"
        );
        let detached = reaction(Signal::SIGHUP, Hangup::ReopensTheLog, ignored);
        assert_eq!(detached, Reaction::ReopenLog);
    }
}
