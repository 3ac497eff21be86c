//! The daemon: a host in a process of its own.
//!
//! Laws of this module:
//! - Nobody who reads the daemon's output can hold it up or make it fail: the log has a thread of its own
//!   ([`chimaera_runtime::log`]), and so has everything else that it writes ([`announcer`]). No other code of
//!   the daemon writes to standard output or standard error.
//! - No signal that can be survived ends it without its pools being flushed ([`signals`]).

mod announcer;
mod detach;
mod logging;
mod signals;

use std::path::{Path, PathBuf};

use chimaera_runtime::log::{self, Thresholds};
use chimaera_runtime::{Config, Host};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::getppid;

use crate::args::{GlobalArguments, StartArguments};
use crate::failure::CommandFailure;
use crate::output;
use crate::wait_notice::WaitNotice;

use announcer::Announcer;
pub(crate) use detach::detach;
use signals::Hangup;

/// What a daemon's output begins with once it serves.
const READY: &str = "ready";

/// Runs a daemon until it is told to stop.
pub(crate) fn run(
    arguments: &StartArguments,
    socket: &Path,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    let log_file = arguments.detached_log.as_deref();
    let (thresholds, announcer) = prepare(arguments).map_err(|failure| match log_file {
        // Whoever has started it reads standard output; there is no other thread yet that waiting could hold up.
        Some(_) => {
            output::announce(&failure);
            failure.told()
        }
        None => failure,
    })?;
    let result = logging::start(thresholds, log_file).and_then(|_log| {
        let served = serve(arguments, socket, &announcer);
        served.map_err(|ended| match ended {
            // The log may be that of the daemon which serves here.
            Ended::NotStarted(failure) => failure,
            Ended::Failed(failure) => {
                // In the foreground it stands there in any case.
                if log_file.is_some() {
                    log::error(&failure);
                }
                failure
            }
        })
    });
    let json = global.json;
    result.map_err(|failure| {
        let told = failure.clone();
        match log_file {
            // Whoever has started it reads the last words, and tells them.
            Some(_) => announcer.say_last(move || output::announce(told)),
            None => announcer.say_last(move || {
                output::error(&told, json);
            }),
        }
        failure.told()
    })
}

/// What comes before the announcer, and it. A failure of these is told without one.
fn prepare(arguments: &StartArguments) -> Result<(Thresholds, Announcer), CommandFailure> {
    if let Some(parent) = arguments.with_parent {
        end_with(parent)?;
    }
    let thresholds = logging::thresholds()?;
    // Before any thread is there, so that every thread inherits it.
    signals::block()?;
    Ok((thresholds, Announcer::start()?))
}

/// How a daemon fails.
enum Ended {
    /// It has not come to serve: nothing here is its own, and it logs nothing.
    NotStarted(CommandFailure),
    Failed(CommandFailure),
}

/// Starts a host and ends it. Its log is written until this returns.
fn serve(arguments: &StartArguments, socket: &Path, announcer: &Announcer) -> Result<(), Ended> {
    let limit_raised = raise_file_limit();
    let is_detached = arguments.detached_log.is_some();
    let hangup = if is_detached {
        Hangup::ReopensTheLog
    } else {
        Hangup::Stops
    };
    // What stops the daemon is there before there is anything to stop.
    let signals = signals::watch(hangup).map_err(Ended::NotStarted)?;
    let plugin_folders = arguments.plugin_dir.iter().map(|path| absolute(path));
    let plugin_folders: Result<_, _> = plugin_folders.collect();
    let config = Config {
        socket: Some(socket.to_path_buf()),
        worker_count: arguments.workers.unwrap_or(0).into(),
        pin_to: arguments.pin.clone(),
        polling: arguments.polling.into(),
        plugin_folders: plugin_folders.map_err(Ended::NotStarted)?,
        modules: vec![chimaera_bdev_runtime::module()],
    };
    // In the background it is the one who has started this that says so.
    let waiting = (!is_detached).then(|| WaitNotice::begin(|| "the daemon to serve".to_owned()));
    let host = Host::start(&config).map_err(|error| Ended::NotStarted(error.into()))?;
    drop(waiting);
    if let Err(error) = limit_raised {
        log::warning(format_args!(
            "the limit of open files stays as it is: {error}"
        ));
    }
    signals.stop_on_signal(host.stopper());
    if is_detached {
        detach::leave_folder_and_session();
    }
    log::info(format_args!("serving {}", socket.display()));
    let ready = format!("{READY} on {}", output::printable_path(socket));
    announcer.say(move || {
        output::announce(ready);
        if is_detached {
            detach::let_go_of_output();
        }
    });
    host.wait();
    log::info("stopping");
    let ended = host.end();
    log::info("stopped");
    ended.map_err(|error| Ended::Failed(error.into()))
}

/// A path that is the same whatever folder the process is in.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, CommandFailure> {
    std::path::absolute(path).map_err(CommandFailure::system(format_args!(
        "cannot find out where {} is",
        path.display()
    )))
}

/// Has the daemon stop in good order when the process that started it ends, however it does.
fn end_with(parent: i32) -> Result<(), CommandFailure> {
    set_pdeathsig(Signal::SIGTERM)
        .map_err(|error| CommandFailure::new(format!("cannot watch process {parent}: {error}")))?;
    // It may have ended before the kernel was told.
    if getppid().as_raw() == parent {
        return Ok(());
    }
    Err(CommandFailure::new(format!(
        "process {parent}, with which the daemon is to end, did not start it or is gone"
    )))
}

/// Every lane of every client needs a file descriptor.
fn raise_file_limit() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}
