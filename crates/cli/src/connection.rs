//! The connection to the daemon that a command means: connecting, questions, orders.
//!
//! Laws of this module:
//! - A command that waits for longer than a second says what it waits for ([`WaitNotice`]).
//! - Connecting and a question end within [`PATIENCE`]. Orders take as long as they take.
//! - A failure to reach a daemon names its process, where that is known.

use std::path::PathBuf;
use std::time::Duration;

use chimaera_bdev_client::{Error, Status};
use chimaera_client::{
    ConnectOptions, OperatorConnection, Runtime, RuntimeStatus, SocketPlace, Task,
};
use chimaera_runtime::{process_at, show_process};
use chimaera_thread::standstill::Standstill;
use nix::errno::Errno;

use crate::args::DaemonArguments;
use crate::failure::CommandFailure;
use crate::unreachable;
use crate::wait_notice::WaitNotice;

/// How long the daemon may take to answer a question. Connecting has the client's own limit, which is as long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes for the buffers of questions and orders: as many as the client takes from its segment for the first of them.
const SMALL_BYTES: u64 = 8 << 20;

/// Connects to the daemon that a command means.
pub(crate) fn connect(daemon: &DaemonArguments) -> Result<Runtime, CommandFailure> {
    connect_with(ConnectOptions::new(), daemon).map_err(|error| explain(error, daemon))
}

/// Connects for questions and orders alone, with as little memory as possible: a daemon that has no room for more can
/// still be stopped.
pub(crate) fn connect_small(daemon: &DaemonArguments) -> Result<Runtime, Error> {
    connect_with(ConnectOptions::new().buffer_bytes(SMALL_BYTES), daemon)
}

/// As [`connect_small`], without a word to the user, if the daemon answers within this time.
pub(crate) fn connect_briefly(
    daemon: &DaemonArguments,
    patience: Duration,
) -> Result<Runtime, Error> {
    let options = ConnectOptions::new().buffer_bytes(SMALL_BYTES);
    let options = options_of(options, daemon).control_patience(patience);
    match &daemon.place.socket {
        Some(path) => options.connect_to(path),
        None => options.connect(),
    }
}

/// Connects as an operator, without a session, and asks for the daemon's status.
pub(crate) fn connect_as_operator(
    daemon: &DaemonArguments,
) -> Result<(OperatorConnection, RuntimeStatus), Error> {
    let options = options_of(ConnectOptions::new(), daemon);
    let _notice = WaitNotice::begin(answer_of(daemon));
    let connection = match &daemon.place.socket {
        Some(path) => options.connect_to_as_operator(path),
        None => options.connect_as_operator(),
    }?;
    let status = connection.status()?;
    Ok((connection, status))
}

fn options_of(options: ConnectOptions, daemon: &DaemonArguments) -> ConnectOptions {
    match daemon.any_user {
        true => options.trust_any_user(),
        false => options,
    }
}

fn connect_with(options: ConnectOptions, daemon: &DaemonArguments) -> Result<Runtime, Error> {
    let options = options_of(options, daemon);
    let _notice = WaitNotice::begin(answer_of(daemon));
    match &daemon.place.socket {
        Some(path) => options.connect_to(path),
        None => options.connect(),
    }
}

/// The failure to reach a daemon, with what is known of it.
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

/// Waits for the answer to a question.
///
/// # Errors
/// The question fails, or is not answered within [`PATIENCE`].
pub(crate) fn ask<T>(question: Task<T>, daemon: &DaemonArguments) -> Result<T, CommandFailure> {
    in_time(question, daemon).map_err(|error| match error.status() {
        Status::Busy => no_answer(error, daemon),
        _ => error.into(),
    })
}

/// As [`ask`]; [`Status::Busy`] where no answer comes in time.
pub(crate) fn in_time<T>(mut question: Task<T>, daemon: &DaemonArguments) -> Result<T, Error> {
    let _notice = WaitNotice::begin(answer_of(daemon));
    match question.wait_timeout(PATIENCE) {
        Some(answer) => Ok(answer.map_err(|error| error.error)?),
        None => {
            let error = Error::new(Status::Busy, "asking the runtime");
            Err(error.with_account(format!("the daemon did not answer for {PATIENCE:?}")))
        }
    }
}

/// Gives an order, and waits for its result as long as it takes.
///
/// # Errors
/// The order fails.
pub(crate) fn order<T>(
    daemon: &DaemonArguments,
    give: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    let _notice = WaitNotice::begin(answer_of(daemon));
    give()
}

/// The failure of a daemon that does not answer, with what keeps its process, where that is known. It has no exit code
/// of its own: the daemon is there, and may answer later.
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

/// Says what a command waits for: the answer of this daemon.
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

/// The process of the daemon that a command means, if one listens. 0 is a process in another pid namespace.
pub(crate) fn process_of(daemon: &DaemonArguments) -> Option<i32> {
    process_at(&socket_in_use(daemon)).ok().flatten()
}

/// The sockets that a command means, as absolute paths, in the order in which a client tries them. Those in folders of
/// other users are left out, as clients do not look there.
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

/// The first of the sockets that a command means at which somebody answers or may answer; else the first of all.
pub(crate) fn socket_in_use(daemon: &DaemonArguments) -> PathBuf {
    let mut sockets = sockets(daemon);
    let answers = |socket: &PathBuf| !matches!(process_at(socket), Ok(None));
    let index = sockets.iter().position(answers).unwrap_or(0);
    sockets.swap_remove(index)
}
