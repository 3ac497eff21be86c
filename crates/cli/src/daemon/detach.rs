//! A daemon in the background: started by one process, serving in another.
//!
//! The daemon is this program once more, with its log as standard error. On standard output it tells the process that
//! has started it that it is ready, or its last words. Then it closes standard output, and leaves the folder, the
//! session and the terminal that it was started from.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use chimaera_runtime::{HostError, log, process_at, served_by};
use serde::Serialize;

use super::{READY, absolute, logging};
use crate::args::{DETACHED_LOG, GlobalArguments, StartArguments};
use crate::failure::CommandFailure;
use crate::output;
use crate::wait_notice::WaitNotice;

/// The most bytes of a daemon's last words that are reported.
const MAX_LAST_WORDS_BYTES: u64 = 16 * 1024;

/// What `start --detach --json` prints.
#[derive(Serialize)]
struct DetachReport<'a> {
    process_id: u32,
    #[serde(serialize_with = "output::path_in_json")]
    socket: &'a Path,
    #[serde(serialize_with = "output::path_in_json")]
    log: &'a Path,
}

/// Starts a daemon in the background and returns once it serves.
pub(crate) fn detach(
    arguments: &StartArguments,
    socket: &Path,
    global: &GlobalArguments,
) -> Result<(), CommandFailure> {
    // Checked here, and not only in the daemon, which has no terminal to complain to.
    logging::thresholds()?;
    refuse_where_one_serves(socket)?;
    let log_path = absolute(&arguments.log.clone().unwrap_or_else(|| log_beside(socket)))?;
    let log = logging::open(&log_path).map_err(|error| {
        let failed = CommandFailure::system(format!("cannot log to {}", log_path.display()));
        match arguments.log {
            Some(_) => failed(error),
            None => failed(error).explain(
                "the log lies beside the socket unless --log names another: choose a socket in a folder \
                 where this user can make files",
            ),
        }
    })?;
    let program =
        std::env::current_exe().map_err(CommandFailure::system("cannot find this program"))?;
    let mut daemon = Command::new(program)
        .args(without_detaching(std::env::args_os().skip(1)))
        .arg(format!("--{DETACHED_LOG}"))
        .arg(&log_path)
        .args(socket_argument(arguments, socket))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(no_process)?;
    let notice = WaitNotice::begin(|| "the daemon to serve".to_owned());
    let said = first_words(&mut daemon);
    drop(notice);
    if !said.starts_with(READY) {
        let status = daemon.wait().ok();
        return Err(not_started(status, &said, &log_path));
    }
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
    Ok(())
}

/// Refuses to start a daemon where one serves, before a log is made for it. The daemon itself finds one that begins to
/// serve meanwhile, and waits for one that was killed.
fn refuse_where_one_serves(socket: &Path) -> Result<(), CommandFailure> {
    let Ok(Some(process)) = process_at(socket) else {
        return Ok(());
    };
    match served_by(socket, process) {
        HostError::Killed { .. } => Ok(()),
        running => Err(CommandFailure::from(running)
            .map_text(|text| format!("the daemon did not start: {text}"))),
    }
}

/// The failure to start a process for the daemon.
fn no_process(error: std::io::Error) -> CommandFailure {
    let limit = match error.kind() {
        ErrorKind::WouldBlock => "processes (`ulimit -u`, `pids.max` of the control group)",
        ErrorKind::OutOfMemory => "memory (`ulimit -v`, that of the control group)",
        _ => return CommandFailure::system("cannot start the daemon")(error),
    };
    CommandFailure::system("cannot start the daemon")(error)
        .explain(format_args!("a limit on {limit} is reached: raise it"))
}

/// Reads what the daemon says until it serves or ends.
fn first_words(daemon: &mut Child) -> String {
    let mut said = Vec::new();
    if let Some(stdout) = daemon.stdout.take() {
        let mut stdout = BufReader::new(stdout.take(MAX_LAST_WORDS_BYTES));
        // What cannot be read counts as not said.
        let _ = stdout.read_until(b'\n', &mut said);
        if !said.starts_with(READY.as_bytes()) {
            let _ = stdout.read_to_end(&mut said);
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// The failure of a daemon that does not serve, in its own words if it has said any.
fn not_started(status: Option<ExitStatus>, said: &str, log: &Path) -> CommandFailure {
    let code = status.and_then(|status| status.code());
    let text = match (said.trim_end(), status) {
        ("", Some(status)) => format!(
            "the daemon did not start and did not say why ({status}): see {}",
            log.display()
        ),
        (words, _) => format!("the daemon did not start: {words}"),
    };
    CommandFailure::of_child(code, text)
}

fn log_beside(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".log");
    path.into()
}

/// Where the daemon is to listen, if its arguments do not say it: a variable would not reach a daemon that does not
/// trust its environment.
fn socket_argument(arguments: &StartArguments, socket: &Path) -> Vec<OsString> {
    match arguments.place.socket {
        Some(_) => Vec::new(),
        None => vec!["--socket".into(), socket.into()],
    }
}

/// The arguments without `--detach` and `--log FILE`.
fn without_detaching(arguments: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let mut skip = false;
    arguments.filter(move |argument| {
        let is_value = std::mem::replace(&mut skip, argument == "--log");
        let is_joined = argument
            .to_str()
            .is_some_and(|text| text.starts_with("--log="));
        !(is_value || skip || is_joined || argument == "--detach")
    })
}

/// Leaves the folder that the daemon was started in, so that it can be removed or unmounted, and the session, so that
/// neither its end nor its terminal's signals reach this process. Every path that is still used is absolute by now.
pub(super) fn leave_folder_and_session() {
    let left = std::env::set_current_dir("/")
        .and_then(|()| nix::unistd::setsid().map(drop).map_err(Into::into));
    if let Err(error) = left {
        log::warning(format_args!(
            "the daemon keeps the folder or the session that it was started in: {error}"
        ));
    }
}

/// Closes standard output, whose reader is about to end.
pub(super) fn let_go_of_output() {
    let closed = File::options().write(true).open("/dev/null");
    let closed = closed.and_then(|null| Ok(nix::unistd::dup2_stdout(null)?));
    if let Err(error) = closed {
        log::warning(format_args!("standard output stays open: {error}"));
    }
}
