//! `chimaera runtime stop`.
//!
//! The daemon answers the order to stop when its last pool has ended, however long that takes. Meanwhile it says what
//! it waits for, and the command waits as long as that changes.
//!
//! Where no answer comes, because the daemon is gone or somebody else stops it, its lock file says how it ended. Only
//! the daemon's own word, in its answer or its lock file, is taken for success.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use chimaera_client::{Error, Status};
use chimaera_runtime::{DaemonEnd, DaemonProcess, LockFile, lock_holder, show_process};
use chimaera_thread::standstill::Standstill;
use serde::Serialize;

use crate::args::{DaemonArguments, GlobalArguments};
use crate::connection::{explain, socket_in_use};
use crate::failure::CommandFailure;
use crate::output;
use crate::runtime::daemon_watch::{DaemonWatch, answers, holds_within};
use crate::runtime::link::DaemonLink;
use crate::runtime::status::changing;
use crate::wait_notice::SILENCE;

/// How long `stop` waits while nothing changes for a daemon that does not say how long its end may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much longer it waits than a daemon says that its end may take.
const OVERTIME: Duration = Duration::from_secs(5);

/// How long `stop` waits while nothing changes for a daemon that gives its end so many seconds.
fn patience(stop_timeout_seconds: u64) -> Duration {
    Duration::from_secs(stop_timeout_seconds) + OVERTIME
}

/// How long `stop` waits for the process of a runtime that has ended: an application with a runtime inside goes on.
const EXIT_PATIENCE: Duration = Duration::from_secs(5);

/// What `stop --json` prints.
#[derive(Serialize)]
struct StopReport {
    stopped: bool,
    process_id: u32,
}

pub(super) fn stop(
    daemon: &DaemonArguments,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    let socket = socket_in_use(daemon);
    // Asked before the order to stop: afterwards another daemon may serve here.
    let served_by = DaemonProcess::at(&socket).ok().flatten();
    let lock = LockFile::of(&socket);
    let stopping = match DaemonLink::open(daemon) {
        Ok((link, status)) => {
            let own_id = status.process_id;
            let process = served_by.map_or(own_id.cast_signed(), |daemon| daemon.id);
            let mut stopping = StoppingDaemon::new(process, own_id);
            stopping.patience = patience(status.stop_timeout_seconds);
            let watch = DaemonWatch::of(&link);
            match order(&link, &mut stopping)? {
                StopAnswer::Finished => stopping.wait_for_exit(&watch, &link)?,
                StopAnswer::Unflushed(error) => {
                    stopping.wait_for_exit(&watch, &link)?;
                    return Err(stopping.unflushed(error));
                }
                StopAnswer::None => {
                    stopping.wait_for(&watch)?;
                    stopping.check_end(lock.as_ref())?;
                }
            }
            stopping
        }
        Err(error) => {
            let stopping = end_of_unreached(error, served_by, &socket, daemon)?;
            stopping.check_end(lock.as_ref())?;
            stopping
        }
    };
    let StoppingDaemon {
        process,
        process_id,
        ..
    } = stopping;
    if global.json {
        return output::json(&StopReport {
            stopped: true,
            process_id,
        });
    }
    output::line(format_args!(
        "stopped the daemon {} at {}",
        show_process(process),
        output::printable_path(&socket)
    ));
    Ok(())
}

/// Waits for a daemon that accepts no connections, if it is about to end.
///
/// # Errors
/// It is not about to end, or does not end in time.
fn end_of_unreached(
    error: Error,
    served_by: Option<DaemonProcess>,
    socket: &Path,
    daemon: &DaemonArguments,
) -> Result<StoppingDaemon, CommandFailure> {
    let status = error.status();
    let is_absent = error.is_no_daemon();
    let failure = explain(error, daemon);
    let mut known = None;
    if let Some(daemon) = served_by {
        known = Some(daemon.id);
        let mut stopping = StoppingDaemon::new(daemon.id, 0);
        // The daemon may have been ending, or have had no descriptor left to say why it closed the connection.
        let is_loss = is_absent || status == Status::ConnectionLost;
        let has_left = || holds_within(SILENCE, || !answers(socket, daemon.id));
        if status == Status::ShuttingDown || is_loss && has_left() {
            stopping.wait_for(&DaemonWatch::of_unreached(daemon, socket))?;
            return Ok(stopping);
        }
    }
    let known = known.or_else(|| lock_holder(socket));
    // A process that stands still takes no signals, and the failure says so already.
    let takes_signals = |process: &i32| *process > 0 && Standstill::of(*process).is_none();
    Err(match known.filter(takes_signals).filter(|_| !is_absent) {
        Some(process) => failure.explain(format_args!(
            "where it cannot be asked to stop, `kill {process}` stops it in good order"
        )),
        None => failure,
    })
}

const fn is_ending(status: Status) -> bool {
    matches!(status, Status::ShuttingDown | Status::ConnectionLost)
}

/// A daemon's answer to the order to stop.
enum StopAnswer {
    /// All pools were flushed and have ended.
    Finished,
    /// All pools have ended, and one of them was not flushed.
    Unflushed(Error),
    /// No answer: the daemon is about to end, or gone.
    None,
}

/// Orders the daemon to stop, and waits until its pools have ended.
///
/// # Errors
/// The daemon does not stop.
fn order(link: &DaemonLink, stopping: &mut StoppingDaemon) -> Result<StopAnswer, CommandFailure> {
    loop {
        match link.stop_within(SILENCE) {
            Some(Ok(())) => return Ok(StopAnswer::Finished),
            // Somebody else has given the order before, or the daemon was killed.
            Some(Err(error)) if is_ending(error.status()) => return Ok(StopAnswer::None),
            Some(Err(error)) if is_stopping(link) => return Ok(StopAnswer::Unflushed(error)),
            Some(Err(error)) => return Err(error.into()),
            None => stopping.note(what_it_waits_for(link))?,
        }
    }
}

/// Whether the daemon is stopping or has stopped: then an order that has failed was carried out all the same.
fn is_stopping(link: &DaemonLink) -> bool {
    match link.status_within(SILENCE) {
        Some(Ok(status)) => status.is_stopping,
        Some(Err(error)) => is_ending(error.status()),
        None => true,
    }
}

/// What the daemon waits for before it ends, in its own words, if it says so.
fn what_it_waits_for(link: &DaemonLink) -> Option<String> {
    let status = link.status_within(SILENCE)?.ok()?;
    let mut waits: Vec<_> = status.changing.iter().map(changing).collect();
    let further = status.pool_count.saturating_add(status.changing_count) as usize - waits.len();
    if further > 0 {
        waits.push(format!("{further} further pools"));
    }
    (!waits.is_empty()).then(|| waits.join(", "))
}

/// A daemon that is stopping: how long it has waited for what, and what was said of that.
struct StoppingDaemon {
    /// Its process id here; 0 if it has none in this pid namespace.
    process: i32,
    /// The process id that scripts are told: where there is none here, that of the daemon's own pid namespace.
    process_id: u32,
    /// What it waited for when it was last asked.
    waits_for: Option<String>,
    /// Since when it waits for that.
    since: Instant,
    /// Whether the user was told what it waits for.
    is_said: bool,
    /// How long to wait while nothing changes.
    patience: Duration,
}

impl StoppingDaemon {
    fn new(process: i32, own_id: u32) -> Self {
        Self {
            process,
            process_id: match process {
                0 => own_id,
                _ => process.cast_unsigned(),
            },
            waits_for: None,
            since: Instant::now(),
            is_said: false,
            patience: PATIENCE,
        }
    }

    /// Remembers what the daemon waits for, and tells the user where that is news.
    ///
    /// # Errors
    /// The daemon has waited for the same for too long.
    fn note(&mut self, waits_for: Option<String>) -> Result<(), CommandFailure> {
        if waits_for != self.waits_for || !self.is_said {
            if waits_for != self.waits_for {
                self.since = Instant::now();
            }
            self.waits_for = waits_for;
            self.is_said = true;
            output::note(format_args!("waiting for {self} to end"));
        }
        if self.since.elapsed() < self.patience {
            return Ok(());
        }
        if let Some(standstill) = Standstill::of(self.process) {
            let daemon = show_process(self.process);
            return Err(CommandFailure::new(format!(
                "the daemon {daemon} is stopping, and its process {standstill}"
            )));
        }
        Err(CommandFailure::new(format!(
            "{self} is stopping, and has not come further for {} s: its log may say why; {}, more than a second \
             apart, ends it at once, and what was not flushed may be lost",
            self.patience.as_secs(),
            match self.process {
                0 => "SIGTERM twice, sent there".to_owned(),
                process => format!("`kill {process}` twice"),
            }
        )))
    }

    /// Checks how a daemon has ended that gave no answer.
    ///
    /// # Errors
    /// It has not flushed its pools, or that is not known.
    fn check_end(&self, lock: Option<&LockFile>) -> Result<(), CommandFailure> {
        // A daemon whose process cannot be watched may not have written its word yet.
        let has_left_word = |lock: &LockFile| lock.end() != DaemonEnd::CutShort;
        let end = lock.map_or(DaemonEnd::Unknown, |lock| {
            holds_within(SILENCE, || has_left_word(lock));
            lock.end()
        });
        let daemon = show_process(self.process);
        Err(match end {
            DaemonEnd::Finished => return Ok(()),
            DaemonEnd::Unflushed(text) => self.unflushed(text),
            DaemonEnd::CutShort => CommandFailure::new(format!(
                "the daemon {daemon} has ended without finishing, killed or cut short by a second \
                 signal: what was not flushed may be lost; its log says which pools were stopped before",
            )),
            DaemonEnd::Unknown => CommandFailure::new(format!(
                "the daemon {daemon} has ended, and whether its pools were flushed is not known, as \
                 its lock file was removed or may not be read: its log says which pools were stopped",
            )),
        })
    }

    /// The failure of a daemon that has ended and could not flush a pool. The reason names the pool.
    fn unflushed(&self, reason: impl fmt::Display) -> CommandFailure {
        CommandFailure::new(format!(
            "the daemon {} has ended, and what was done last may be lost, as it was not flushed: {reason}; \
             its log says whether that is so of other pools, too",
            show_process(self.process)
        ))
    }

    /// Waits for the process of a daemon whose pools have ended. Where it is an application with a runtime inside,
    /// which goes on, the user is told.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    fn wait_for_exit(
        &mut self,
        watch: &DaemonWatch,
        link: &DaemonLink,
    ) -> Result<(), CommandFailure> {
        if watch.ends_within(EXIT_PATIENCE) {
            return Ok(());
        }
        if link.is_connected() {
            return self.wait_for(watch);
        }
        output::note(format_args!(
            "the runtime has ended, and its process {} has not: it is an application with a runtime inside, or \
             hangs at its end",
            show_process(self.process)
        ));
        Ok(())
    }

    /// Waits until the daemon has ended.
    ///
    /// # Errors
    /// That takes too long.
    fn wait_for(&mut self, watch: &DaemonWatch) -> Result<(), CommandFailure> {
        self.waits_for = None;
        (self.since, self.is_said) = (Instant::now(), false);
        while !watch.ends_within(SILENCE) {
            self.note(None)?;
        }
        Ok(())
    }
}

impl fmt::Display for StoppingDaemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process = self.process;
        write!(f, "the daemon {}", show_process(process))?;
        if let Some(standstill) = Standstill::of(process) {
            return write!(f, ", which {standstill},");
        }
        match &self.waits_for {
            Some(waits_for) => write!(f, ", which waits for {waits_for},"),
            None => Ok(()),
        }
    }
}
