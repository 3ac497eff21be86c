//! `chimaera runtime`: the daemon as a whole.

use std::fmt;
use std::iter;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chimaera_bdev_client::Status;
use chimaera_client::{
    ConnectOptions, LogLine, LogStatus, ModuleInfo, Runtime, RuntimeStatus, Severity, SocketPlace,
};
use chimaera_runtime::{check_socket_path, lock_holder, process_at};
use serde::Serialize;

use crate::args::{Global, RuntimeCommand};
use crate::failure::Failure;
use crate::{clock, daemon, output};

/// How long `stop` waits for the daemon to be gone after it said that it stops.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// How often `stop` looks whether the daemon is gone.
const STOP_LOOK: Duration = Duration::from_millis(5);

pub(crate) fn run(command: &RuntimeCommand, global: &Global) -> Result<(), Failure> {
    match command {
        RuntimeCommand::Start(arguments) => {
            let place = match &global.socket {
                Some(path) => SocketPlace::named(path),
                None => SocketPlace::own(),
            };
            // Before anything is made.
            check_socket_path(place.path())?;
            place
                .prepare()
                .map_err(|error| Failure::new(format!("cannot start the daemon: {error}")))?;
            if arguments.detach {
                daemon::detach(arguments, place.path(), global)
            } else {
                daemon::run(arguments, place.path(), global)
            }
        }
        RuntimeCommand::Stop => stop(global),
        RuntimeCommand::Status => status(global),
    }
}

/// Connects to the daemon that a command means.
pub(crate) fn connect(global: &Global) -> Result<Runtime, Failure> {
    connect_with(ConnectOptions::new(), global)
}

/// Bytes for the buffers of questions and orders: what the client takes for the first of them.
const SMALL_BYTES: u64 = 8 << 20;

/// Connects for nothing but questions and orders, with as little memory as can be: a daemon that has no
/// room for more must still be stopped.
fn connect_small(global: &Global) -> Result<Runtime, Failure> {
    connect_with(ConnectOptions::new().buffer_bytes(SMALL_BYTES), global)
}

fn connect_with(options: ConnectOptions, global: &Global) -> Result<Runtime, Failure> {
    let options = match global.any_user {
        true => options.trust_any_user(),
        false => options,
    };
    Ok(match &global.socket {
        Some(path) => options.connect_to(path)?,
        None => options.connect()?,
    })
}

/// What `stop --json` prints.
#[derive(Serialize)]
struct StopReport {
    stopped: bool,
    process_id: u32,
}

fn stop(global: &Global) -> Result<(), Failure> {
    let socket = socket_in_use(global);
    let served_by = process_at(&socket).ok().flatten();
    let process_id = match connect_small(global) {
        Ok(runtime) => {
            match runtime.admin().stop_runtime() {
                // Somebody else stops it, and was first.
                Err(error) if is_ending(error.status()) => {}
                result => result?,
            }
            let process_id = runtime.daemon().process_id;
            // The daemon closes its connections when nothing is left to do but to end.
            wait_for_the_end(process_id, || !runtime.is_connected())?;
            process_id
        }
        Err(failure) => match served_by {
            // One that is stopping welcomes nobody, and may have ended since.
            Some(process) if failure.is_ending() => {
                let has_ended = || !process_at(&socket).is_ok_and(|now| now == Some(process));
                let process_id = process.cast_unsigned();
                wait_for_the_end(process_id, has_ended)?;
                process_id
            }
            Some(process) => return Err(failure.explain_failed(format_args!(
                "where the daemon has no room for a client, `kill {process}` stops it in good order"
            ))),
            None => return Err(explain_absence(failure, &socket)),
        },
    };
    if global.json {
        return output::json(&StopReport {
            stopped: true,
            process_id,
        });
    }
    output::line(format_args!(
        "stopped the daemon with process id {process_id} at {}",
        socket.display()
    ));
    Ok(())
}

const fn is_ending(status: Status) -> bool {
    matches!(status, Status::ShuttingDown | Status::ConnectionLost)
}

fn wait_for_the_end(process_id: u32, has_ended: impl Fn() -> bool) -> Result<(), Failure> {
    let deadline = Instant::now() + STOP_PATIENCE;
    while !has_ended() {
        if Instant::now() > deadline {
            return Err(Failure::new(format!(
                "the daemon with process id {process_id} is stopping, and takes long: see its log; \
                 two signals (`kill {process_id}`) end it at once"
            )));
        }
        std::thread::sleep(STOP_LOOK);
    }
    Ok(())
}

/// Says of a daemon that nobody can reach that it is there all the same.
fn explain_absence(failure: Failure, socket: &Path) -> Failure {
    match lock_holder(socket) {
        Some(process) if failure.is_loss() && !socket.exists() => Failure::no_runtime(format!(
            "{failure}; but a daemon with process id {process} runs whose socket was removed: \
             `kill {process}` stops it in good order"
        )),
        _ => failure,
    }
}

/// The first of the sockets that a command means at which somebody answers, or may; else the first.
fn socket_in_use(global: &Global) -> PathBuf {
    let mut sockets = match &global.socket {
        Some(path) => vec![path.clone()],
        None => SocketPlace::all()
            .iter()
            .map(|place| place.path().to_path_buf())
            .collect(),
    };
    let answers = |socket: &PathBuf| !matches!(process_at(socket), Ok(None));
    let index = sockets.iter().position(answers).unwrap_or(0);
    sockets.swap_remove(index)
}

/// What `status --json` prints.
#[derive(Serialize)]
struct StatusReport<'a> {
    version: &'a str,
    process_id: u32,
    uptime_seconds: u64,
    workers: u32,
    sessions: u32,
    pools: u32,
    modules: Vec<ModuleReport<'a>>,
    log: LogReport<'a>,
}

/// What `status --json` prints of a module.
#[derive(Serialize)]
struct ModuleReport<'a> {
    name: &'a str,
    /// `null` as long as its library was not loaded.
    version: Option<&'a str>,
    built_in: bool,
    library: Option<&'a str>,
    /// Whether a daemon that is started now would use something else.
    stale: bool,
}

/// What `status --json` prints of the log.
#[derive(Serialize)]
struct LogReport<'a> {
    /// `null` if it is written.
    problem: Option<&'a str>,
    lost_lines: u64,
    recent: Vec<LogLineReport<'a>>,
}

/// An error or a warning that was logged.
#[derive(Serialize)]
struct LogLineReport<'a> {
    time: String,
    severity: &'static str,
    text: &'a str,
}

impl<'a> From<&'a LogStatus> for LogReport<'a> {
    fn from(log: &'a LogStatus) -> Self {
        Self {
            problem: log.problem.as_deref(),
            lost_lines: log.lost_lines,
            recent: log.recent.iter().map(LogLineReport::from).collect(),
        }
    }
}

impl<'a> From<&'a LogLine> for LogLineReport<'a> {
    fn from(line: &'a LogLine) -> Self {
        Self {
            time: clock::show_unix_milliseconds(line.unix_milliseconds),
            severity: match line.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            text: &line.text,
        }
    }
}

impl LogReport<'_> {
    fn show(&self) {
        let state = match (self.problem, self.lost_lines) {
            (None, 0) => "is written".to_owned(),
            (None, lost) => format!("is written again, {lost} lines are lost"),
            (Some(problem), 0) => problem.to_owned(),
            (Some(problem), lost) => format!("{problem}; {lost} lines are lost"),
        };
        output::line(format_args!("{:<12}{state}", "log"));
        let headings = iter::once("complaints").chain(iter::repeat(""));
        for (line, heading) in self.recent.iter().zip(headings) {
            let LogLineReport {
                time,
                severity,
                text,
            } = line;
            output::line(format_args!("{heading:<12}{time} {severity}: {text}"));
        }
    }
}

impl<'a> From<&'a ModuleInfo> for ModuleReport<'a> {
    fn from(module: &'a ModuleInfo) -> Self {
        Self {
            name: &module.name,
            version: module.version.as_deref(),
            built_in: module.library.is_none(),
            library: module.library.as_deref(),
            stale: module.stale,
        }
    }
}

impl fmt::Display for ModuleReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = output::printable(self.library.unwrap_or("built in"));
        match self.version {
            Some(version) if self.stale => write!(
                f,
                "{} {version} ({source}, of which there is another by now: stop the daemon and start it again to \
                 use that)",
                self.name
            ),
            Some(version) => write!(f, "{} {version} ({source})", self.name),
            None => write!(f, "{} ({source}, not in use yet)", self.name),
        }
    }
}

fn status(global: &Global) -> Result<(), Failure> {
    let status: RuntimeStatus = connect_small(global)?.admin().status()?;
    let report = StatusReport {
        version: &status.version,
        process_id: status.process_id,
        uptime_seconds: status.uptime_seconds,
        workers: status.worker_count,
        sessions: status.session_count,
        pools: status.pool_count,
        modules: status.modules.iter().map(ModuleReport::from).collect(),
        log: LogReport::from(&status.log),
    };
    if global.json {
        return output::json(&report);
    }
    let rows = [
        ("version", report.version.to_owned()),
        ("process id", report.process_id.to_string()),
        ("uptime", format!("{} s", report.uptime_seconds)),
        ("workers", report.workers.to_string()),
        (
            "sessions",
            format!("{} (this one included)", report.sessions),
        ),
        ("pools", report.pools.to_string()),
    ];
    for (name, value) in rows {
        output::line(format_args!("{name:<12}{value}"));
    }
    // A line each: paths are long.
    let headings = iter::once("modules").chain(iter::repeat(""));
    for (module, heading) in report.modules.iter().zip(headings) {
        output::line(format_args!("{heading:<12}{module}"));
    }
    report.log.show();
    Ok(())
}
