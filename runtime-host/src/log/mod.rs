//! The host's log: no thread that logs waits for it or suffers from its faults.
//!
//! The lines of the host and its modules go into a queue, and one thread writes them: to the [`Sink`] of a daemon, else
//! to the `tracing` subscriber of the application that embeds the host. The sink may block, fail or panic; only this
//! thread is affected. There is one log in a process, since a module's thread may log after its host has ended.
//!
//! Laws of this module:
//! - [`error`] and its like never block, never panic, and may be called on any thread, with any lock held. The whole
//!   host logs through them and never through `tracing` (a lint ensures that).
//! - The queue has limits. Lines that do not fit are counted, and their number is logged when writing works again; the
//!   least severe lines are dropped first.
//! - A line that cannot be written is kept and tried again. It is given up only when the log ends, after
//!   [`END_PATIENCE`].
//! - Nothing under the lock can panic or wait.

mod line;
mod queue;
mod recent;
mod shares;
mod sink;

use std::fmt::{Debug, Display};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use chimaera_chimod::Level;
use chimaera_fork::{PerProcess, ProcessIdentity};
use chimaera_proto::admin::LogStatus;
use chimaera_thread as thread;
use chimaera_thread::condition::{Condvar, Mutex, MutexGuard};

pub use line::{Line, Source};
use queue::LineQueue;
use recent::Recent;
pub(crate) use shares::Shares;
pub use sink::Sink;
use sink::Tracing;

/// How long the end of the log waits for lines that are still to be written.
pub const END_PATIENCE: Duration = Duration::from_secs(1);

/// How long the log's thread waits before it tries a failed write again.
const RETRY: Duration = Duration::from_secs(1);

/// How long a line may take before the log counts as standing still.
const STALL: Duration = Duration::from_secs(1);

/// Logs that something failed that should not have.
pub fn error(text: impl Display) {
    say(Level::Error, Source::Host, text);
}

/// Logs that something works, but not as its user may expect.
pub fn warning(text: impl Display) {
    say(Level::Warning, Source::Host, text);
}

/// Logs what an operator wants to see.
pub fn info(text: impl Display) {
    say(Level::Info, Source::Host, text);
}

/// Logs what only a developer wants to see.
pub fn debug(text: impl Display) {
    say(Level::Debug, Source::Host, text);
}

/// Logs a line. A panic in formatting its text is caught.
pub(crate) fn say(level: Level, source: Source, text: impl Display) {
    let is_wanted = THRESHOLDS.let_through(level, source);
    if !is_wanted && !Recent::keeps(level) {
        return;
    }
    let line = quietly(|| Line::new(level, source, &text))
        .unwrap_or_else(|| Line::new(level, source, &"a line of the log panicked as it was made"));
    let mut state = LOG.get().state.lock();
    state.recent.note(&line);
    if is_wanted {
        state.queue.push(line);
        LOG.get().changed.notify_one();
    }
}

/// Logs a line that a user has caused, as far as the user's share of the log goes; with `None` as [`say`] does. A user
/// may cause lines at will, and names are as long as users like: so the line is cut.
pub(crate) fn say_for(user: Option<u32>, level: Level, source: Source, text: impl Display) {
    let Some(user) = user else {
        say(level, source, text);
        return;
    };
    let skipped = USER_SHARES.get().lock().admit(user.into(), Instant::now());
    if let Some(skipped) = skipped {
        let text = quietly(|| line::bounded(&text, MAX_USER_TEXT_BYTES)).unwrap_or_default();
        say(level, source, format_args!("{text}{skipped}"));
    }
}

/// The most bytes of the text of a line that a user has caused.
const MAX_USER_TEXT_BYTES: usize = 1024;

/// Users' shares of the log for what they do: each pool that is made or ended, for example, is a line.
static USER_SHARES: PerProcess<Mutex<Shares>> =
    PerProcess::new(|| Mutex::new(Shares::with_lines("user", 32)));

/// Waits until every line that was logged before is written or cannot be, for `patience` at most.
pub fn flush(patience: Duration) {
    let end = Instant::now() + patience;
    let mut state = LOG.get().state.lock();
    while state.writer.is_at_work(&state.queue) {
        if LOG.get().written.wait_until(&mut state, end) {
            return;
        }
    }
}

/// Has the log's thread reopen its sink ([`Sink::reopen`]). Does not wait for that.
pub fn reopen() {
    LOG.get().state.lock().reopen = true;
    LOG.get().changed.notify_one();
}

/// The log's part of the runtime's status.
pub(crate) fn status() -> LogStatus {
    let state = LOG.get().state.lock();
    LogStatus {
        recent: state.recent.lines(),
        lost_lines: state.queue.lost_in_all(),
        problem: match &state.writer {
            Writer::Failing(reason) => Some(format!("it cannot be written: {reason}")),
            Writer::Writing(since) if since.elapsed() > STALL => Some(format!(
                "it stands still for {} s: whoever is to read it does not",
                since.elapsed().as_secs()
            )),
            _ => None,
        },
    }
}

/// The least severe level of each source that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// For the host itself; `None` for no line at all.
    pub host: Option<Level>,
    /// For modules; `None` for no line at all.
    pub modules: Option<Level>,
}

/// Starts the log's thread with a sink of the caller's own. To be called before any host is started.
///
/// # Errors
/// The system gives no thread, or the log runs already.
pub fn start(sink: impl Sink + 'static, thresholds: Thresholds) -> io::Result<LogHandle> {
    let mut state = LOG.get().state.lock();
    if state.writer.is_there() {
        let reason = "the log of this process is written already";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
    }
    THRESHOLDS.set(thresholds);
    state.start_writer(Box::new(sink))
}

/// Makes sure that the log's thread runs: an existing one, else a new one that hands lines to `tracing`.
pub(crate) fn ensure_started() -> io::Result<LogHandle> {
    let mut state = LOG.get().state.lock();
    if state.writer.is_there() {
        state.users += 1;
        return Ok(LogHandle {
            process: ProcessIdentity::current(),
        });
    }
    THRESHOLDS.follow_tracing();
    state.start_writer(Box::new(Tracing))
}

/// Keeps the log's thread running. Dropping the last handle ends the thread, and waits for that no longer than
/// [`END_PATIENCE`]. In a forked child dropping it does nothing.
#[derive(Debug)]
#[must_use]
pub struct LogHandle {
    process: ProcessIdentity,
}

impl Drop for LogHandle {
    fn drop(&mut self) {
        if !self.process.is_current() {
            // The thread is the parent's.
            return;
        }
        let end = Instant::now() + END_PATIENCE;
        let mut state = LOG.get().state.lock();
        state.users -= 1;
        LOG.get().changed.notify_one();
        // Another may start meanwhile and keep the thread.
        while state.users == 0 && state.writer.is_there() {
            if LOG.get().written.wait_until(&mut state, end) {
                return;
            }
        }
    }
}

/// The log of this process. A forked child has one of its own: its parent's log has no thread there, and its lock may
/// be taken for ever.
static LOG: PerProcess<Log> = PerProcess::new(Log::new);

struct Log {
    state: Mutex<LogState>,
    /// Told when there is something to do for the log's thread, its end included.
    changed: Condvar,
    /// Told when the log's thread has nothing left to do, cannot do it, or has ended.
    written: Condvar,
}

impl Log {
    fn new() -> Self {
        Self {
            state: Mutex::new(LogState {
                queue: LineQueue::new(),
                recent: Recent::new(),
                users: 0,
                writer: Writer::Gone,
                reopen: false,
            }),
            changed: Condvar::new(),
            written: Condvar::new(),
        }
    }
}

struct LogState {
    queue: LineQueue,
    recent: Recent,
    /// How many [`LogHandle`] there are.
    users: usize,
    writer: Writer,
    reopen: bool,
}

/// What the log's thread is doing.
enum Writer {
    /// There is no thread.
    Gone,
    Idle,
    /// It has been handing a line to the sink since this moment.
    Writing(Instant),
    /// It waits before it tries again, for this reason.
    Failing(String),
}

impl Writer {
    fn is_there(&self) -> bool {
        !matches!(self, Self::Gone)
    }

    fn is_at_work(&self, queue: &LineQueue) -> bool {
        match self {
            Self::Gone | Self::Failing(_) => false,
            Self::Idle => !queue.is_empty(),
            Self::Writing(_) => true,
        }
    }
}

impl LogState {
    fn start_writer(&mut self, sink: Box<dyn Sink>) -> io::Result<LogHandle> {
        thread::spawn("chimaera-log", move || write_all(sink))?;
        self.writer = Writer::Idle;
        self.users += 1;
        Ok(LogHandle {
            process: ProcessIdentity::current(),
        })
    }
}

/// The log's thread.
fn write_all(mut sink: Box<dyn Sink>) {
    let mut state = LOG.get().state.lock();
    loop {
        if std::mem::take(&mut state.reopen) {
            reopen_sink(&mut state, &mut *sink);
        } else if let Some(line) = state.queue.pop() {
            if !write(&mut state, &mut *sink, &line) {
                break;
            }
        } else if state.users == 0 {
            break;
        } else {
            state.writer = Writer::Idle;
            LOG.get().written.notify_all();
            LOG.get().changed.wait(&mut state);
        }
    }
    state.writer = Writer::Gone;
    LOG.get().written.notify_all();
}

/// Writes a line, with as many attempts as it takes. Returns whether it is written: at the log's end it is given up.
fn write(state: &mut MutexGuard<'_, LogState>, sink: &mut dyn Sink, line: &Line) -> bool {
    loop {
        state.writer = Writer::Writing(Instant::now());
        let result = state.unlocked(|| {
            // A line that makes the sink panic would do so again: it counts as written.
            quietly(|| sink.write(line)).unwrap_or(Ok(()))
        });
        let Err(error) = result else {
            return true;
        };
        if state.users == 0 {
            return false;
        }
        state.writer = Writer::Failing(error.to_string());
        LOG.get().written.notify_all();
        let again = Instant::now() + RETRY;
        while state.users > 0 && !state.reopen {
            if LOG.get().changed.wait_until(state, again) {
                break;
            }
        }
        if std::mem::take(&mut state.reopen) {
            reopen_sink(state, sink);
        }
    }
}

fn reopen_sink(state: &mut MutexGuard<'_, LogState>, sink: &mut dyn Sink) {
    state.writer = Writer::Writing(Instant::now());
    state.unlocked(|| match quietly(|| sink.reopen()) {
        Some(Ok(())) => info("the log was opened again, and goes on here"),
        Some(Err(error)) => error_of_reopening(&error),
        None => error_of_reopening(&"it panicked"),
    });
}

fn error_of_reopening(reason: &dyn Display) {
    error(format_args!(
        "the log cannot be opened again, and goes on where it was: {reason}"
    ));
}

/// Runs `action`, and gives its result, or `None` if it panicked.
fn quietly<T>(action: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(action))
        .map_err(|payload| {
            // A payload may be of any type, and panic when it is dropped.
            let dropped = catch_unwind(AssertUnwindSafe(move || drop(payload)));
            std::mem::forget(dropped);
        })
        .ok()
}

/// Levels above which a source's lines are not even queued.
static THRESHOLDS: SharedThresholds = SharedThresholds {
    host: AtomicU32::new(SharedThresholds::ASK_TRACING),
    modules: AtomicU32::new(SharedThresholds::ASK_TRACING),
};

/// [`Thresholds`] that any thread reads. Each is independent of all else: relaxed is enough.
struct SharedThresholds {
    host: AtomicU32,
    modules: AtomicU32,
}

impl SharedThresholds {
    const ASK_TRACING: u32 = u32::MAX;

    fn set(&self, thresholds: Thresholds) {
        let number = |level: Option<Level>| level.map_or(0, |level| level as u32);
        self.host.store(number(thresholds.host), Ordering::Relaxed);
        self.modules
            .store(number(thresholds.modules), Ordering::Relaxed);
    }

    fn follow_tracing(&self) {
        self.host.store(Self::ASK_TRACING, Ordering::Relaxed);
        self.modules.store(Self::ASK_TRACING, Ordering::Relaxed);
    }

    fn let_through(&self, level: Level, source: Source) -> bool {
        let threshold = match source {
            Source::Host => &self.host,
            Source::Module => &self.modules,
        };
        match threshold.load(Ordering::Relaxed) {
            Self::ASK_TRACING => Tracing::lets_through(level),
            threshold => level as u32 <= threshold,
        }
    }
}
