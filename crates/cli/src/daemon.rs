//! The daemon: a host in a process of its own.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use chimaera_runtime::{Config, Host, Stopper};
use chimaera_shm::thread;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::getppid;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::args::{Global, StartArguments};
use crate::failure::Failure;
use crate::output;

/// Environment variable that says what is logged, for example `debug`.
const LOG_VARIABLE: &str = "CHIMAERA_LOG";

/// What a daemon's output begins with once it serves.
const READY: &str = "ready";

/// Runs a daemon until it is told to stop.
pub(crate) fn run(arguments: &StartArguments, socket: &Path) -> Result<(), Failure> {
    if let Some(parent) = arguments.with_parent {
        end_with(parent)?;
    }
    start_logging();
    raise_file_limit();
    // Before any thread is there, so that every thread inherits it.
    let signals = block_signals()?;
    let config = Config {
        socket: Some(socket.to_owned()),
        worker_count: arguments.workers.unwrap_or(0).into(),
        pin_to: arguments.pin.clone(),
        polling: arguments.polling.into(),
        plugin_folders: arguments.plugin_dir.clone(),
        modules: vec![chimaera_bdev_runtime::module()],
    };
    let host = Host::start(&config)?;
    stop_on_signal(signals, host.stopper())?;
    tracing::info!(socket = %socket.display(), "serving");
    output::announce(format_args!("{READY} on {}", socket.display()));
    host.wait();
    tracing::info!("stopping");
    let ended = host.end();
    tracing::info!("stopped");
    Ok(ended?)
}

/// What `start --detach --json` prints.
#[derive(Serialize)]
struct DetachReport<'a> {
    process_id: u32,
    socket: &'a Path,
    log: &'a Path,
}

/// Starts a daemon in the background and returns once it serves.
pub(crate) fn detach(
    arguments: &StartArguments,
    socket: &Path,
    global: &Global,
) -> Result<(), Failure> {
    let log_path = arguments.log.clone().unwrap_or_else(|| log_beside(socket));
    let log = File::options().create(true).append(true).open(&log_path);
    let log = log.map_err(Failure::system(format_args!(
        "cannot write {}",
        log_path.display()
    )))?;
    let program = std::env::current_exe().map_err(Failure::system("cannot find this program"))?;
    let attached = std::env::args_os()
        .skip(1)
        .filter(|argument| argument != "--detach");
    let mut command = Command::new(program);
    command
        .args(without_log(attached))
        .env("CHIMAERA_SOCKET", socket);
    // A process group of its own: the terminal's signals do not reach it.
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    let mut daemon = command
        .spawn()
        .map_err(Failure::system("cannot start the daemon"))?;
    let mut said = String::new();
    if let Some(stdout) = daemon.stdout.take() {
        let _ = BufReader::new(stdout).read_line(&mut said);
    }
    if said.starts_with(READY) {
        if global.json {
            return output::json(&DetachReport {
                process_id: daemon.id(),
                socket,
                log: &log_path,
            });
        }
        output::line(format_args!(
            "{} with process id {}",
            said.trim_end(),
            daemon.id()
        ));
        return Ok(());
    }
    let code = daemon.wait().ok().and_then(|status| status.code());
    Err(Failure::of_child(
        code,
        format!("the daemon did not start: see {}", log_path.display()),
    ))
}

fn log_beside(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".log");
    path.into()
}

/// The arguments without `--log FILE`, which goes only with `--detach`.
fn without_log(
    arguments: impl Iterator<Item = std::ffi::OsString>,
) -> impl Iterator<Item = std::ffi::OsString> {
    let mut skip = false;
    arguments.filter(move |argument| {
        let is_value = std::mem::replace(&mut skip, argument == "--log");
        let is_joined = argument
            .to_str()
            .is_some_and(|text| text.starts_with("--log="));
        !(is_value || skip || is_joined)
    })
}

fn start_logging() {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

/// Has the daemon stop in good order when the process that started it ends, however it does.
fn end_with(parent: i32) -> Result<(), Failure> {
    set_pdeathsig(Signal::SIGTERM)
        .map_err(|error| Failure::new(format!("cannot watch process {parent}: {error}")))?;
    // It may have ended before the kernel was told.
    if getppid().as_raw() == parent {
        return Ok(());
    }
    Err(Failure::new(format!(
        "process {parent}, with which the daemon is to end, did not start it or is gone"
    )))
}

/// Every lane of every client needs a file descriptor.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}

fn block_signals() -> Result<SigSet, Failure> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect();
    signals
        .thread_block()
        .map_err(|error| Failure::new(format!("cannot block signals: {error}")))?;
    Ok(signals)
}

/// The first signal stops the host in good order; a second one ends the process at once.
fn stop_on_signal(signals: SigSet, stopper: Stopper) -> Result<(), Failure> {
    let thread = thread::spawn("chimaera-signals", move || {
        if let Ok(signal) = signals.wait() {
            tracing::info!("{signal}: stopping; a second signal ends the daemon at once");
            stopper.stop();
        }
        if signals.wait().is_ok() {
            std::process::exit(1);
        }
    });
    thread
        .map(drop)
        .map_err(|refused| Failure::new(format!("cannot start the runtime: {refused}")))
}
