//! `chimaera runtime`: the daemon as a whole.

use std::fmt;
use std::iter;
use std::time::{Duration, Instant};

use chimaera_client::{ConnectOptions, ModuleInfo, Runtime, RuntimeStatus, SocketPlace};
use serde::Serialize;

use crate::args::{Global, RuntimeCommand};
use crate::failure::Failure;
use crate::{daemon, output};

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
            place
                .prepare()
                .map_err(|error| Failure::new(format!("cannot start the daemon: {error}")))?;
            if arguments.detach {
                daemon::detach(arguments, place.path(), global)
            } else {
                daemon::run(arguments, place.path())
            }
        }
        RuntimeCommand::Stop => stop(global),
        RuntimeCommand::Status => status(global),
    }
}

/// Connects to the daemon that a command means.
pub(crate) fn connect(global: &Global) -> Result<Runtime, Failure> {
    let options = match global.any_user {
        true => ConnectOptions::new().trust_any_user(),
        false => ConnectOptions::new(),
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
    let runtime = connect(global)?;
    runtime.admin().stop_runtime()?;
    // The daemon closes its connections when nothing is left to do but to end.
    let deadline = Instant::now() + STOP_PATIENCE;
    while runtime.is_connected() {
        if Instant::now() > deadline {
            return Err(Failure::new(
                "the daemon is stopping, and takes long: see its log",
            ));
        }
        std::thread::sleep(STOP_LOOK);
    }
    if global.json {
        return output::json(&StopReport {
            stopped: true,
            process_id: runtime.daemon().process_id,
        });
    }
    output::line("stopped");
    Ok(())
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
}

/// What `status --json` prints of a module.
#[derive(Serialize)]
struct ModuleReport<'a> {
    name: &'a str,
    /// `null` as long as its library was not loaded.
    version: Option<&'a str>,
    built_in: bool,
    library: Option<&'a str>,
}

impl<'a> From<&'a ModuleInfo> for ModuleReport<'a> {
    fn from(module: &'a ModuleInfo) -> Self {
        Self {
            name: &module.name,
            version: module.version.as_deref(),
            built_in: module.library.is_none(),
            library: module.library.as_deref(),
        }
    }
}

impl fmt::Display for ModuleReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = output::printable(self.library.unwrap_or("built in"));
        match self.version {
            Some(version) => write!(f, "{} {version} ({source})", self.name),
            None => write!(f, "{} ({source}, not in use yet)", self.name),
        }
    }
}

fn status(global: &Global) -> Result<(), Failure> {
    let status: RuntimeStatus = connect(global)?.admin().status()?;
    let report = StatusReport {
        version: &status.version,
        process_id: status.process_id,
        uptime_seconds: status.uptime_seconds,
        workers: status.worker_count,
        sessions: status.session_count,
        pools: status.pool_count,
        modules: status.modules.iter().map(ModuleReport::from).collect(),
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
    Ok(())
}
