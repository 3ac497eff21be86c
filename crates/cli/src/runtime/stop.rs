//! `chimaera runtime stop`.
//!
//! The order to stop is answered when the last pool has ended, which takes as long as it takes. Meanwhile the
//! daemon says what it waits for, and as long as that changes there is something to wait for.
//!
//! Where no answer comes, because the daemon is gone or somebody else stops it, its lock file says how it ended.
//! Nothing but the daemon's own word, the one or the other, is taken for a success.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use chimaera_client::{Error, Runtime, Status};
use chimaera_runtime::{DaemonEnd, DaemonProcess, LockFile, lock_holder, show_process};
use chimaera_shm::thread::standstill::Standstill;
use serde::Serialize;

use crate::args::{DaemonArguments, GlobalArguments};
use crate::connection::{connect_small, explain, socket_in_use};
use crate::failure::CommandFailure;
use crate::output;
use crate::runtime::daemon_watch::{DaemonWatch, answers, comes};
use crate::runtime::status::changing;
use crate::wait_notice::SILENCE;

/// How long `stop` waits while nothing changes.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long `stop` waits for the process of a runtime that has ended: one inside an application goes on.
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
    // Before it is asked to stop: afterwards there may be another one.
    let served_by = DaemonProcess::at(&socket).ok().flatten();
    let lock = LockFile::of(&socket);
    let patience = match connect_small(daemon) {
        Ok(runtime) => {
            let own_id = runtime.daemon().process_id;
            let process = served_by.map_or(own_id.cast_signed(), |daemon| daemon.id);
            let mut patience = StoppingDaemon::new(process, own_id);
            let ending = DaemonWatch::of(&runtime);
            match order(&runtime, &mut patience)? {
                StopAnswer::Finished => patience.wait_for_exit(&ending, &runtime)?,
                StopAnswer::Unflushed(error) => {
                    patience.wait_for_exit(&ending, &runtime)?;
                    return Err(patience.unflushed(error));
                }
                StopAnswer::None => {
                    patience.wait_for(&ending)?;
                    patience.check_end(lock.as_ref())?;
                }
            }
            patience
        }
        Err(error) => {
            let patience = end_of_unreached(error, served_by, &socket, daemon)?;
            patience.check_end(lock.as_ref())?;
            patience
        }
    };
    let StoppingDaemon {
        process,
        process_id,
        ..
    } = patience;
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

/// Waits for a daemon that welcomes nobody, if it is about to end.
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
        let mut patience = StoppingDaemon::new(daemon.id, 0);
        // It may have been ending, or have had no descriptor to say why it closed the connection.
        let is_loss = is_absent || status == Status::ConnectionLost;
        let has_left = || comes(SILENCE, || !answers(socket, daemon.id));
        if status == Status::ShuttingDown || is_loss && has_left() {
            patience.wait_for(&DaemonWatch::of_unreached(daemon, socket))?;
            return Ok(patience);
        }
    }
    let known = known.or_else(|| lock_holder(socket));
    // What stands still takes no signal, and that is said already.
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

/// What a daemon answers to the order to stop.
enum StopAnswer {
    /// Its pools are flushed and have ended.
    Finished,
    /// A pool was not flushed. All have ended.
    Unflushed(Error),
    /// Nothing: it is about to end, or gone.
    None,
}

/// Tells the daemon to stop, and waits until its pools have ended.
///
/// # Errors
/// It does not stop.
fn order(runtime: &Runtime, patience: &mut StoppingDaemon) -> Result<StopAnswer, CommandFailure> {
    let mut order = runtime.admin().async_stop_runtime();
    loop {
        match order
            .wait_timeout(SILENCE)
            .map(|ended| ended.map_err(Error::from))
        {
            Some(Ok(())) => return Ok(StopAnswer::Finished),
            // Somebody else stops it, and was first; or it was killed.
            Some(Err(error)) if is_ending(error.status()) => return Ok(StopAnswer::None),
            Some(Err(error)) if is_stopping(runtime) => return Ok(StopAnswer::Unflushed(error)),
            Some(Err(error)) => return Err(error.into()),
            None => patience.note(what_it_waits_for(runtime))?,
        }
    }
}

/// Whether the daemon stops, or has: an order that has failed was carried out then.
fn is_stopping(runtime: &Runtime) -> bool {
    match runtime.admin().async_status().wait_timeout(SILENCE) {
        Some(Ok(status)) => status.is_stopping,
        Some(Err(error)) => is_ending(error.status()),
        None => true,
    }
}

/// What keeps the daemon from ending, in its own words, if it says so.
fn what_it_waits_for(runtime: &Runtime) -> Option<String> {
    let status = runtime.admin().async_status().wait_timeout(SILENCE)?.ok()?;
    let mut waits: Vec<_> = status.changing.iter().map(changing).collect();
    let further = status.pool_count.saturating_add(status.changing_count) as usize - waits.len();
    if further > 0 {
        waits.push(format!("{further} further pools"));
    }
    (!waits.is_empty()).then(|| waits.join(", "))
}

/// Waits for a daemon to end, and says what it is that takes long.
struct StoppingDaemon {
    /// Its process here; 0 if this pid namespace does not have it.
    process: i32,
    /// The number that a script is told: where there is none here, that of the daemon's own pid namespace.
    process_id: u32,
    /// What was waited for when it was looked last, and since when.
    waits_for: Option<String>,
    since: Instant,
    is_said: bool,
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
        }
    }

    /// Takes note of what is waited for, and says so where it is news.
    ///
    /// # Errors
    /// It has been the same for too long.
    fn note(&mut self, waits_for: Option<String>) -> Result<(), CommandFailure> {
        if waits_for != self.waits_for || !self.is_said {
            if waits_for != self.waits_for {
                self.since = Instant::now();
            }
            self.waits_for = waits_for;
            self.is_said = true;
            output::note(format_args!("waiting for {self} to end"));
        }
        if self.since.elapsed() < PATIENCE {
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
            PATIENCE.as_secs(),
            match self.process {
                0 => "SIGTERM twice, sent there".to_owned(),
                process => format!("`kill {process}` twice"),
            }
        )))
    }

    /// That a daemon which has ended, and has not told this client how, has flushed its pools.
    ///
    /// # Errors
    /// It has not, or that is not known.
    fn check_end(&self, lock: Option<&LockFile>) -> Result<(), CommandFailure> {
        // Where its process cannot be watched, it may not have left word yet.
        let has_left_word = |lock: &LockFile| lock.end() != DaemonEnd::CutShort;
        let end = lock.map_or(DaemonEnd::Unknown, |lock| {
            comes(SILENCE, || has_left_word(lock));
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

    /// The failure of a daemon that has ended and could not flush a pool, which the reason names.
    fn unflushed(&self, reason: impl fmt::Display) -> CommandFailure {
        CommandFailure::new(format!(
            "the daemon {} has ended, and what was done last may be lost, as it was not flushed: {reason}; \
             its log says whether that is so of other pools, too",
            show_process(self.process)
        ))
    }

    /// Waits for the end of a daemon whose pools have ended. An application that has had its runtime inside goes on
    /// without, which is said.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    fn wait_for_exit(
        &mut self,
        ending: &DaemonWatch,
        runtime: &Runtime,
    ) -> Result<(), CommandFailure> {
        if ending.ends_within(EXIT_PATIENCE) {
            return Ok(());
        }
        if runtime.is_connected() {
            return self.wait_for(ending);
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
    /// It takes too long.
    fn wait_for(&mut self, ending: &DaemonWatch) -> Result<(), CommandFailure> {
        self.waits_for = None;
        (self.since, self.is_said) = (Instant::now(), false);
        while !ending.ends_within(SILENCE) {
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
