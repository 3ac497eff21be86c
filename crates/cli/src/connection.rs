//! Reaching the daemon that a command means: connecting, and asking what it knows at once.
//!
//! Laws of this module:
//! - Nobody waits in silence for longer than a second: it is said then what for ([`WaitNotice`]).
//! - A connection and a question have an end within [`PATIENCE`]. Orders take as long as they take.
//! - A daemon that cannot be reached is named by its process, where that is known.

use std::path::PathBuf;
use std::time::Duration;

use chimaera_bdev_client::{Error, Status};
use chimaera_client::{ConnectOptions, Runtime, SocketPlace, Task};
use chimaera_runtime::{process_at, show_process};
use chimaera_shm::thread::standstill::Standstill;
use nix::errno::Errno;

use crate::args::DaemonArguments;
use crate::failure::CommandFailure;
use crate::unreachable;
use crate::wait_notice::WaitNotice;

/// How long the daemon may take for the answer to a question. For a connection it is the client's own, which
/// is as long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes for the buffers of questions and orders: what the client takes for the first of them.
const SMALL_BYTES: u64 = 8 << 20;

/// Connects to the daemon that a command means.
pub(crate) fn connect(daemon: &DaemonArguments) -> Result<Runtime, CommandFailure> {
    connect_with(ConnectOptions::new(), daemon).map_err(|error| explain(error, daemon))
}

/// Connects for nothing but questions and orders, with as little memory as can be: a daemon that has no
/// room for more must still be stopped.
pub(crate) fn connect_small(daemon: &DaemonArguments) -> Result<Runtime, Error> {
    connect_with(ConnectOptions::new().buffer_bytes(SMALL_BYTES), daemon)
}

fn connect_with(options: ConnectOptions, daemon: &DaemonArguments) -> Result<Runtime, Error> {
    let options = match daemon.any_user {
        true => options.trust_any_user(),
        false => options,
    };
    let _waiting = WaitNotice::begin(answer_of(daemon));
    match &daemon.place.socket {
        Some(path) => options.connect_to(path),
        None => options.connect(),
    }
}

/// Why a daemon was not reached.
pub(crate) fn explain(error: Error, daemon: &DaemonArguments) -> CommandFailure {
    let (status, is_absent) = (error.status(), error.is_no_daemon());
    match status {
        _ if is_absent => unreachable::explain(error.into(), &sockets(daemon)),
        Status::Busy => no_answer(error, daemon),
        _ if error.errno() == Some(Errno::ENAMETOOLONG as i32) => {
            CommandFailure::usage(error.to_string())
        }
        _ => error.into(),
    }
}

/// The answer to a question.
///
/// # Errors
/// The question's own, or that there is no answer in time.
pub(crate) fn ask<T>(mut question: Task<T>, daemon: &DaemonArguments) -> Result<T, CommandFailure> {
    let _waiting = WaitNotice::begin(answer_of(daemon));
    match question.wait_timeout(PATIENCE) {
        Some(answer) => Ok(answer.map_err(|error| error.error)?),
        None => {
            let error = Error::new(Status::Busy, "asking the runtime");
            let text = format!("the daemon did not answer for {PATIENCE:?}");
            Err(no_answer(error.with_account(text), daemon))
        }
    }
}

/// What comes of an order, which takes as long as it takes.
///
/// # Errors
/// The order's own.
pub(crate) fn order<T>(
    daemon: &DaemonArguments,
    give: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    let _waiting = WaitNotice::begin(answer_of(daemon));
    give()
}

/// A failure that is none of the daemon's own: whatever holds it up may pass.
fn no_answer(error: Error, daemon: &DaemonArguments) -> CommandFailure {
    let failure = CommandFailure::new(error.to_string());
    let Some(process) = process_of(daemon) else {
        return failure;
    };
    match Standstill::of(process) {
        Some(standstill) => CommandFailure::new(format!(
            "the daemon did not answer for {PATIENCE:?}: its process {process} {standstill}"
        )),
        None => failure.explain(format_args!(
            "it is the daemon {}, and its log may say why",
            show_process(process)
        )),
    }
}

/// What is waited for, in words, when it is asked for.
fn answer_of(daemon: &DaemonArguments) -> impl FnOnce() -> String + Send + 'static {
    let daemon = daemon.clone();
    move || match process_of(&daemon) {
        Some(process) => {
            let daemon = show_process(process);
            match Standstill::of(process) {
                Some(standstill) => {
                    format!("the answer of the daemon {daemon}, which {standstill}")
                }
                None => format!("the answer of the daemon {daemon}"),
            }
        }
        None => "the answer of the daemon".to_owned(),
    }
}

/// The process of the daemon that a command means, if one listens; 0 if it is in another pid namespace.
pub(crate) fn process_of(daemon: &DaemonArguments) -> Option<i32> {
    process_at(&socket_in_use(daemon)).ok().flatten()
}

/// The sockets that a command means, absolute, in the order in which they are tried. In a folder that is somebody
/// else's no client looks.
fn sockets(daemon: &DaemonArguments) -> Vec<PathBuf> {
    let sockets = match &daemon.place.socket {
        Some(path) => vec![path.clone()],
        None => SocketPlace::all()
            .iter()
            .filter(|place| {
                place
                    .check()
                    .map_or_else(|wrong| wrong.is_absent(), |()| true)
            })
            .map(|place| place.path().to_path_buf())
            .collect(),
    };
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    sockets.into_iter().map(absolute).collect()
}

/// The first of the sockets that a command means at which somebody answers, or may; else the first.
pub(crate) fn socket_in_use(daemon: &DaemonArguments) -> PathBuf {
    let mut sockets = sockets(daemon);
    let answers = |socket: &PathBuf| !matches!(process_at(socket), Ok(None));
    let index = sockets.iter().position(answers).unwrap_or(0);
    sockets.swap_remove(index)
}
