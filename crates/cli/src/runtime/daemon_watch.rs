//! How a command learns that a daemon has ended.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use chimaera_client::Status;
use chimaera_runtime::{DaemonProcess, process_at};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::runtime::link::DaemonLink;

/// How often a state is looked at whose change wakes nobody.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What tells the end of a daemon.
pub(super) enum DaemonWatch<'a> {
    /// A pidfd, which becomes readable when the daemon's process ends.
    Process(OwnedFd),
    /// Where the system gives no pidfd: the connection, which a daemon closes when nothing is left to do but to end.
    Connection(&'a DaemonLink),
    /// The same for a daemon that accepts no connections: the socket, where the process does not answer any more by
    /// then.
    Socket { socket: &'a Path, process: i32 },
    /// It has ended already.
    Past,
}

impl<'a> DaemonWatch<'a> {
    /// Watches the daemon of this connection.
    pub(super) fn of(link: &'a DaemonLink) -> Self {
        match link.watch_daemon() {
            Ok(Some(process)) => Self::Process(process),
            Err(error) if error.status() == Status::ConnectionLost => Self::Past,
            Ok(None) | Err(_) => Self::Connection(link),
        }
    }

    /// Watches a daemon to which there is no connection.
    pub(super) fn of_unreached(daemon: DaemonProcess, socket: &'a Path) -> Self {
        match daemon.end {
            Some(process) => Self::Process(process),
            None => Self::Socket {
                socket,
                process: daemon.id,
            },
        }
    }

    /// Waits until the daemon has ended, or for this long. Gives whether it has ended.
    pub(super) fn ends_within(&self, patience: Duration) -> bool {
        match self {
            Self::Process(process) => is_readable(process, patience),
            Self::Connection(link) => holds_within(patience, || !link.is_connected()),
            Self::Socket { socket, process } => {
                holds_within(patience, || !answers(socket, *process))
            }
            Self::Past => true,
        }
    }
}

/// Whether this process answers at a socket, or may answer there: who answers cannot always be found out.
pub(super) fn answers(socket: &Path, process: i32) -> bool {
    process_at(socket).map_or(true, |now| now == Some(process))
}

fn is_readable(file: &OwnedFd, patience: Duration) -> bool {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    // The only possible error is an interruption by a signal: then the caller looks again.
    poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|count| count > 0)
}

/// Waits until a condition holds whose change wakes nobody, or for this long. Gives whether it holds.
pub(super) fn holds_within(patience: Duration, holds: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !holds() {
        if begun.elapsed() > patience {
            return false;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    true
}
