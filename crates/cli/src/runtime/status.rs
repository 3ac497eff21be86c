//! `chimaera runtime status`.

use std::fmt;
use std::iter;
use std::path::Path;

use chimaera_bdev_client::{Client, FileState, MODULE_NAME};
use chimaera_client::proto::timestamp;
use chimaera_client::{
    ChangingPool, Hang, HangPlace, LogLine, LogStatus, ModuleCall, ModuleInfo, ModuleReplacement,
    PoolStep, RuntimeStatus, Severity,
};
use serde::Serialize;

use crate::args::{DaemonArguments, GlobalArguments};
use crate::connection::{connect_briefly, explain, process_of};
use crate::failure::CommandFailure;
use crate::runtime::link::DaemonLink;
use crate::wait_notice::SILENCE;
use crate::{output, program};

/// What `status --json` prints.
#[derive(Serialize)]
struct StatusReport<'a> {
    version: &'a str,
    process_id: u32,
    uptime_seconds: u64,
    stopping: bool,
    workers: u32,
    sessions: u32,
    /// Where the daemon listens for this command.
    #[serde(serialize_with = "output::path_in_json")]
    socket: &'a Path,
    /// Whether this command has operators' rights there.
    operator: bool,
    pools: u32,
    /// How many pools are being made or ended.
    pools_changing: u32,
    /// The first of these pools.
    changing: Vec<ChangingReport<'a>>,
    /// How many calls into modules hang.
    calls_hanging: u32,
    /// The first of these calls.
    hanging: Vec<HangReport<'a>>,
    modules: Vec<ModuleReport<'a>>,
    /// Pools whose files are not in their places, or not whole.
    lost_files: Vec<FileReport>,
    restrictions: Vec<RestrictionReport<'a>>,
    log: LogReport<'a>,
    /// How many modules and lines of the log the daemon has left out.
    left_out: u32,
}

/// What `status --json` prints of what the daemon has given up.
#[derive(Serialize)]
struct RestrictionReport<'a> {
    name: &'a str,
    in_force: bool,
    text: &'a str,
}

/// What `status --json` prints of a pool that is being made or ended.
#[derive(Serialize)]
struct ChangingReport<'a> {
    name: &'a str,
    module: &'a str,
    step: PoolStep,
}

/// What `status --json` prints of a call that hangs. Module, pool and call are `null` where the runtime hangs itself.
#[derive(Serialize)]
struct HangReport<'a> {
    module: Option<&'a str>,
    pool: Option<&'a str>,
    id: Option<String>,
    call: Option<ModuleCall>,
    thread: &'a str,
    thread_id: i32,
    worker: bool,
    seconds: u64,
}

impl<'a> From<&'a Hang> for HangReport<'a> {
    fn from(hang: &'a Hang) -> Self {
        let mut report = Self {
            module: None,
            pool: None,
            id: None,
            call: None,
            thread: &hang.thread,
            thread_id: hang.thread_id,
            worker: hang.is_worker,
            seconds: hang.seconds,
        };
        if let HangPlace::Module {
            module,
            pool,
            id,
            call,
        } = &hang.place
        {
            report.module = Some(module);
            report.pool = Some(pool);
            report.id = id.map(|id| id.to_string());
            report.call = Some(*call);
        }
        report
    }
}

impl fmt::Display for HangReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pool, self.module, self.call) {
            (Some(pool), Some(module), Some(call)) => {
                write!(f, "pool {}", output::printable(pool))?;
                if let Some(id) = &self.id {
                    write!(f, " ({id})")?;
                }
                write!(f, " of module {module}: {call}")?;
            }
            _ => f.write_str("the runtime itself")?,
        }
        let Self {
            seconds,
            thread,
            thread_id,
            ..
        } = self;
        write!(f, ", for {seconds} s, on {thread} (thread {thread_id})")?;
        match self.worker {
            true => f.write_str(", which serves nobody meanwhile"),
            false => Ok(()),
        }
    }
}

/// Says of a pool that is being made or ended how far that is.
pub(super) fn changing(pool: &ChangingPool) -> String {
    let name = output::printable(&pool.name);
    format!("pool {name} of module {}, {}", pool.module, pool.step)
}

/// What `status --json` prints of a module.
#[derive(Serialize)]
struct ModuleReport<'a> {
    name: &'a str,
    /// `null` as long as its library has not been loaded.
    version: Option<&'a str>,
    built_in: bool,
    library: Option<&'a str>,
    /// Whether a daemon that is started now would use another library or none.
    stale: bool,
    /// Whether its library is not there any more.
    removed: bool,
    #[serde(skip)]
    replacement: Option<&'a ModuleReplacement>,
}

/// What `status --json` prints of the log.
#[derive(Serialize)]
struct LogReport<'a> {
    /// What keeps it from being written; `null` if nothing does.
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
            time: timestamp::show_unix_milliseconds(line.unix_milliseconds),
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
            stale: module.replacement.is_some(),
            removed: module.removed,
            replacement: module.replacement.as_ref(),
        }
    }
}

impl fmt::Display for ModuleReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = output::printable(self.library.unwrap_or("built in"));
        let Some(version) = self.version else {
            return write!(f, "{} ({source}, not in use yet)", self.name);
        };
        write!(f, "{} {version} ({source}", self.name)?;
        match self.replacement {
            Some(replacement) if self.removed => {
                f.write_str(", which was removed: a daemon that is started now ")?;
                match replacement {
                    ModuleReplacement::Library(path) => write!(f, "uses {}", output::printable(path))?,
                    ModuleReplacement::BuiltIn => f.write_str("uses what is built in")?,
                    ModuleReplacement::Nothing => f.write_str("does not find the module")?,
                }
            }
            Some(_) => f.write_str(
                ", of which there is another by now: stop the daemon and start it again to use that",
            )?,
            None => {}
        }
        f.write_str(")")
    }
}

/// The daemon's process id in its own pid namespace, and in this one where that differs.
fn process_id(own: u32, here: Option<i32>) -> String {
    match here {
        Some(0) => format!("{own}, in its own pid namespace (a container's, for example)"),
        Some(here) if here.cast_unsigned() != own => {
            format!("{here}, and {own} in its own pid namespace")
        }
        _ => own.to_string(),
    }
}

/// What `status --json` prints of a pool whose file is not in its place, or not whole.
#[derive(Serialize)]
struct FileReport {
    name: String,
    file: FileState,
}

/// The pools of which the daemon has found that their files are not in their places, or not whole. Where an answer
/// takes long, the rest of the pools is left out, so that the other rows of the status do not wait.
fn lost_files(link: &DaemonLink, daemon: &DaemonArguments) -> Vec<FileReport> {
    let session;
    let runtime = match link {
        DaemonLink::Session(runtime, _) => runtime,
        DaemonLink::Operator(_) => match connect_briefly(daemon, SILENCE) {
            Ok(runtime) => {
                session = runtime;
                &session
            }
            Err(_) => return Vec::new(),
        },
    };
    let pools = runtime.admin().async_list_pools().wait_timeout(SILENCE);
    let pools = pools.and_then(Result::ok).unwrap_or_default();
    let mut lost = Vec::new();
    for pool in pools.into_iter().filter(|pool| pool.module == MODULE_NAME) {
        let mut opened = Client::async_open_of(runtime, pool.permissions.owner, &pool.name);
        let Some(opened) = opened.wait_timeout(SILENCE) else {
            break;
        };
        let Ok(client) = opened else { continue };
        let Some(answer) = client.async_get_stats().wait_timeout(SILENCE) else {
            break;
        };
        let file = answer.ok().and_then(|stats| stats.file);
        if let Some(file) = file.filter(|file| file.account().is_some()) {
            lost.push(FileReport {
                name: pool.name,
                file,
            });
        }
    }
    lost
}

impl<'a> StatusReport<'a> {
    fn new(status: &'a RuntimeStatus, link: &'a DaemonLink, lost_files: Vec<FileReport>) -> Self {
        Self {
            version: &status.version,
            process_id: status.process_id,
            uptime_seconds: status.uptime_seconds,
            stopping: status.is_stopping,
            workers: status.worker_count,
            sessions: status.session_count,
            socket: link.socket(),
            operator: status.is_operator,
            pools: status.pool_count,
            pools_changing: status.changing_count,
            changing: status
                .changing
                .iter()
                .map(|pool| ChangingReport {
                    name: &pool.name,
                    module: &pool.module,
                    step: pool.step,
                })
                .collect(),
            calls_hanging: status.hang_count,
            hanging: status.hangs.iter().map(HangReport::from).collect(),
            modules: status.modules.iter().map(ModuleReport::from).collect(),
            restrictions: status
                .restrictions
                .iter()
                .map(|restriction| RestrictionReport {
                    name: &restriction.name,
                    in_force: restriction.in_force,
                    text: &restriction.text,
                })
                .collect(),
            lost_files,
            log: LogReport::from(&status.log),
            left_out: status.left_out,
        }
    }
}

pub(super) fn status(
    daemon: &DaemonArguments,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    let (link, status) = DaemonLink::open(daemon).map_err(|error| explain(error, daemon))?;
    let report = StatusReport::new(&status, &link, lost_files(&link, daemon));
    if global.json {
        output::json(&report)?;
    } else {
        show(&report, &status, daemon);
    }
    match status.hang_count {
        0 => Ok(()),
        count => Err(CommandFailure::hanging(count)),
    }
}

/// Prints the status for people.
fn show(report: &StatusReport<'_>, status: &RuntimeStatus, daemon: &DaemonArguments) {
    let rows = [
        ("version", report.version.to_owned()),
        (
            "process id",
            process_id(report.process_id, process_of(daemon)),
        ),
        ("uptime", format!("{} s", report.uptime_seconds)),
        ("workers", report.workers.to_string()),
        (
            "sessions",
            format!("{} (this one included)", report.sessions),
        ),
        (
            "socket",
            format!(
                "{} ({})",
                output::printable_path(report.socket),
                if report.operator {
                    "for operators"
                } else {
                    "for users"
                }
            ),
        ),
        ("pools", report.pools.to_string()),
    ];
    for (name, value) in rows {
        output::line(format_args!("{name:<12}{value}"));
    }
    let headings = iter::once("changing").chain(iter::repeat(""));
    for (pool, heading) in status.changing.iter().zip(headings) {
        output::line(format_args!("{heading:<12}{}", changing(pool)));
    }
    let headings = iter::once("hanging").chain(iter::repeat(""));
    for (hang, heading) in report.hanging.iter().zip(headings) {
        output::line(format_args!("{heading:<12}{hang}"));
    }
    if report.hanging.len() < report.calls_hanging as usize {
        let count = report.calls_hanging;
        output::line(format_args!("{:<12}{count} calls in all", "hanging"));
    }
    let headings = iter::once("files").chain(iter::repeat(""));
    for (lost, heading) in report.lost_files.iter().zip(headings) {
        let name = output::printable(&lost.name);
        let account = program::as_called(lost.file.account().unwrap_or_default());
        output::line(format_args!("{heading:<12}that of pool {name}: {account}"));
    }
    // A line each: paths are long.
    let headings = iter::once("modules").chain(iter::repeat(""));
    for (module, heading) in report.modules.iter().zip(headings) {
        output::line(format_args!("{heading:<12}{module}"));
    }
    let headings = iter::once("gave up").chain(iter::repeat(""));
    for (restriction, heading) in report.restrictions.iter().zip(headings) {
        let RestrictionReport {
            name,
            in_force,
            text,
        } = restriction;
        let text = output::printable(text);
        let exception = if *in_force { "" } else { "not all: " };
        output::line(format_args!("{heading:<12}{name}: {exception}{text}"));
    }
    report.log.show();
    if report.left_out > 0 {
        output::line(format_args!(
            "{:<12}{} modules and lines of the log, for which the answer had no room",
            "left out", report.left_out
        ));
    }
}
