//! The daemon: a host in a process of its own.
//!
//! Laws of this module:
//! - No reader of the daemon's output can hold the daemon up or make it fail: one thread writes the log
//!   ([`chimaera_runtime::log`]), and another one everything else ([`announcer`]). No other code of the daemon writes
//!   to standard output or standard error.
//! - What the process does not need it gives up before its first thread ([`confinement`]), and what only its start
//!   needs before it says that it serves.
//! - No signal that a process can survive ends the daemon before its pools are flushed ([`signals`]).

mod announcer;
mod confinement;
mod detach;
mod logging;
mod signals;

use std::path::{Path, PathBuf};
use std::time::Duration;

use chimaera_client::proto::socket_path::{SYSTEM_SOCKET, SYSTEM_USERS_SOCKET};
use chimaera_runtime::log::{self, Thresholds};
use chimaera_runtime::{AccountLimits, Config, Host, HostError, UsersSocket};
use chimaera_sandbox::Confinement;
use nix::sys::prctl::{set_dumpable, set_pdeathsig};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use nix::unistd::getppid;

use crate::args::{GlobalArguments, StartArguments};
use crate::failure::CommandFailure;
use crate::output;
use crate::users;
use crate::wait_notice::WaitNotice;

use announcer::Announcer;
pub(crate) use detach::detach;
use signals::Hangup;

/// The word with which a daemon's output begins once it serves.
const READY: &str = "ready";

/// Runs a daemon until it is told to stop.
pub(crate) fn run(
    arguments: &StartArguments,
    socket: &Path,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    chimaera_thread::share_heap_where_memory_is_limited();
    let log_file = arguments.detached_log.as_deref();
    let prepared = prepare(arguments, socket).map_err(|failure| match log_file {
        // The process that has started the daemon reads standard output. There is no other thread yet that a slow
        // reader could hold up.
        Some(_) => {
            output::announce(&failure);
            failure.reported()
        }
        None => failure,
    })?;
    let Prepared {
        thresholds,
        config,
        limit_raised,
        confinement,
        announcer,
    } = prepared;
    let mut hangs = false;
    let result = logging::start(thresholds, log_file).and_then(|_log| {
        let served = serve(
            arguments,
            (socket, &config),
            (limit_raised, confinement),
            &announcer,
        );
        hangs = matches!(served, Err(Ended::Hangs(_)));
        served.map_err(|ended| match ended {
            // The log may belong to the daemon that serves here.
            Ended::NotStarted(failure) => failure,
            Ended::Failed(failure) | Ended::Hangs(failure) => {
                // In the foreground the announcer writes it to the same place.
                if log_file.is_some() {
                    log::error(&failure);
                }
                failure
            }
        })
    });
    let json = global.json;
    result.map_err(|failure| {
        let reported = failure.clone();
        match log_file {
            // The process that has started the daemon reads these last words, and reports them.
            Some(_) => announcer.say_last(move || output::announce(reported)),
            None => announcer.say_last(move || {
                output::error(&reported, json);
            }),
        }
        if hangs {
            // The end of the program might wait for what hangs.
            chimaera_thread::end_process(failure.code());
        }
        failure.reported()
    })
}

/// What a daemon has before it starts its host.
struct Prepared {
    thresholds: Thresholds,
    config: Config,
    /// Whether the limit of open files could be raised.
    limit_raised: nix::Result<()>,
    confinement: Confinement,
    announcer: Announcer,
}

/// Prepares a daemon up to its announcer. A failure before that is reported without one.
fn prepare(arguments: &StartArguments, socket: &Path) -> Result<Prepared, CommandFailure> {
    if let Some(parent) = arguments.with_parent {
        end_with(parent)?;
    }
    let thresholds = logging::thresholds()?;
    // Before the configuration, which shares out what there may be.
    let limit_raised = raise_file_limit();
    // Here all names are looked up, which may load libraries and open connections.
    let mut config = config(arguments, socket)?;
    config.limits = limits(arguments, confinement::stock(arguments, &config));
    // Before any thread is there, so that every thread inherits both.
    signals::block()?;
    let confinement = confinement::enter(arguments, &config)?;
    Ok(Prepared {
        thresholds,
        config,
        limit_raised,
        confinement,
        announcer: Announcer::start()?,
    })
}

/// The configuration of the daemon's host.
fn config(arguments: &StartArguments, socket: &Path) -> Result<Config, CommandFailure> {
    let plugin_folders = arguments.plugin_dir.iter().map(|path| absolute(path));
    let operators = users::operators(&arguments.operators)
        .map_err(|text| CommandFailure::usage(format!("--operators: {text}")))?;
    Ok(Config {
        socket: Some(socket.to_path_buf()),
        operators,
        listen: users_sockets(arguments, socket),
        allow_paths: arguments.allow_path.clone(),
        allow_file_systems: arguments.allow_fs.clone(),
        worker_count: arguments.workers.unwrap_or(0).into(),
        pin_to: arguments.pin.clone(),
        polling: arguments.polling.into(),
        plugin_folders: plugin_folders.collect::<Result<_, _>>()?,
        modules: vec![chimaera_bdev_runtime::module()],
        opened_modules: arguments.modules.clone(),
        opens_named_modules_only: true,
        limits: AccountLimits::default(),
        stop_timeout: Duration::from_secs(arguments.stop_timeout.into()),
    })
}

/// How a daemon has failed.
enum Ended {
    /// It never served: socket and log are not its own, and it logs nothing.
    NotStarted(CommandFailure),
    /// It has served, and its end failed.
    Failed(CommandFailure),
    /// The same, and some of it hangs.
    Hangs(CommandFailure),
}

/// The sockets for users: those that are named; else, of the system's daemon, the usual one, if there is a group of
/// users that it is for.
fn users_sockets(arguments: &StartArguments, socket: &Path) -> Vec<UsersSocket> {
    let usual = || {
        let is_systems = socket == Path::new(SYSTEM_SOCKET) && geteuid().is_root();
        let usual = users::default_users_socket(SYSTEM_USERS_SOCKET);
        usual.group.filter(|_| is_systems).map(|_| usual.clone())
    };
    match arguments.listen.is_empty() {
        true => usual().into_iter().collect(),
        false => arguments.listen.clone(),
    }
}

/// Starts a host, serves until it is told to stop, and ends the host. The log is written until this returns.
fn serve(
    arguments: &StartArguments,
    (socket, config): (&Path, &Config),
    (limit_raised, mut confinement): (nix::Result<()>, Confinement),
    announcer: &Announcer,
) -> Result<(), Ended> {
    let is_detached = arguments.detached_log.is_some();
    let hangup = if is_detached {
        Hangup::ReopensTheLog
    } else {
        Hangup::Stops
    };
    // Signals are watched before there is anything that they could stop.
    let signals = signals::watch(hangup).map_err(Ended::NotStarted)?;
    if config.serves_others() {
        // No other process looks into this one, and no core dump has what users store.
        set_dumpable(false)
            .map_err(Into::into)
            .map_err(CommandFailure::system(
                "cannot close this process to others",
            ))
            .map_err(Ended::NotStarted)?;
    }
    // In the background the process that has started the daemon gives this notice.
    let notice = (!is_detached).then(|| WaitNotice::begin(|| "the daemon to serve".to_owned()));
    let host = Host::start(config).map_err(|error| Ended::NotStarted(error.into()))?;
    drop(notice);
    confinement.settle();
    confinement::tell(&confinement, &host);
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
    ended.map_err(|error| match error {
        HostError::Unfinished(_) => Ended::Hangs(error.into()),
        _ => Ended::Failed(error.into()),
    })
}

/// How much users and sessions may have: what suits this machine and so many rings, but for what is asked for.
fn limits(arguments: &StartArguments, rings: Option<usize>) -> AccountLimits {
    let mut limits = AccountLimits::of_this_machine();
    if let Some(rings) = rings {
        limits = limits.with_rings(rings as u64);
    }
    for &(resource, amount) in &arguments.user_limits {
        limits.per_user = limits.per_user.with(resource, amount);
    }
    for &(resource, amount) in &arguments.session_limits {
        limits.per_session = limits.per_session.with(resource, amount);
    }
    limits
}

/// The absolute path of a file.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, CommandFailure> {
    std::path::absolute(path).map_err(CommandFailure::system(format_args!(
        "cannot find out where {} is",
        path.display()
    )))
}

/// Has the daemon stop in good order when the process that started it ends in any way.
fn end_with(parent: i32) -> Result<(), CommandFailure> {
    set_pdeathsig(Signal::SIGTERM)
        .map_err(|error| CommandFailure::new(format!("cannot watch process {parent}: {error}")))?;
    // That process may have ended before the kernel was told.
    if getppid().as_raw() == parent {
        return Ok(());
    }
    Err(CommandFailure::new(format!(
        "process {parent}, with which the daemon is to end, did not start it or is gone"
    )))
}

/// Raises the limit on open files to its hard limit: every lane of every client needs a file descriptor.
fn raise_file_limit() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}
