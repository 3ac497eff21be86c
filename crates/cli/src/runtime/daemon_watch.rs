//! By what a command learns that a daemon has ended.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use chimaera_client::{Runtime, Status};
use chimaera_runtime::{DaemonProcess, process_at};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How often it is looked for what nobody is woken for.
const LOOK: Duration = Duration::from_millis(5);

/// By what the end of a daemon is told.
pub(super) enum DaemonWatch<'a> {
    /// A file that becomes readable with the end of its process.
    Process(OwnedFd),
    /// Where the system has no such file: a daemon closes its connections when nothing is left to do but to end.
    Connection(&'a Runtime),
    /// The same of one that welcomes nobody: by then this process does not answer at its socket any more.
    Socket { socket: &'a Path, process: i32 },
    /// It has ended.
    Past,
}

impl<'a> DaemonWatch<'a> {
    /// The end of a daemon that has welcomed this client.
    pub(super) fn of(runtime: &'a Runtime) -> Self {
        match runtime.watch_daemon() {
            Ok(Some(process)) => Self::Process(process),
            Err(error) if error.status() == Status::ConnectionLost => Self::Past,
            Ok(None) | Err(_) => Self::Connection(runtime),
        }
    }

    /// The end of one that has not.
    pub(super) fn of_unreached(daemon: DaemonProcess, socket: &'a Path) -> Self {
        match daemon.end {
            Some(process) => Self::Process(process),
            None => Self::Socket {
                socket,
                process: daemon.id,
            },
        }
    }

    /// Waits for it, at most so long. Whether it has come.
    pub(super) fn ends_within(&self, patience: Duration) -> bool {
        match self {
            Self::Process(process) => is_readable(process, patience),
            Self::Connection(runtime) => comes(patience, || !runtime.is_connected()),
            Self::Socket { socket, process } => comes(patience, || !answers(socket, *process)),
            Self::Past => true,
        }
    }
}

/// Whether it is this process that answers at a socket, or may be: one that cannot be asked has not gone.
pub(super) fn answers(socket: &Path, process: i32) -> bool {
    process_at(socket).map_or(true, |now| now == Some(process))
}

fn is_readable(file: &OwnedFd, patience: Duration) -> bool {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    // An error can only be a signal: then it is looked again.
    poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|count| count > 0)
}

/// Whether something that nobody is woken for comes in this time.
pub(super) fn comes(patience: Duration, has_come: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !has_come() {
        if begun.elapsed() > patience {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}
