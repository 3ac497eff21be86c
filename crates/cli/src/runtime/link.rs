//! The way to a daemon for those who ask about it as a whole.
//!
//! Operators ask without a session, on their socket: so they are answered when there is no room for one, and while
//! everything else hangs. On a socket for users it takes a session.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use chimaera_client::{Error, OperatorConnection, Runtime, RuntimeStatus, Status, Task};

use crate::args::DaemonArguments;
use crate::connection::{connect_as_operator, connect_small, in_time};

/// A connection to a daemon.
pub(super) enum DaemonLink {
    /// An operator's, without a session.
    Operator(OperatorConnection),
    /// A session, and the order to stop that was given there.
    Session(Runtime, RefCell<Option<Task<()>>>),
}

impl DaemonLink {
    /// Connects to the daemon that a command means. Gives its status, too.
    pub(super) fn open(daemon: &DaemonArguments) -> Result<(Self, RuntimeStatus), Error> {
        match connect_as_operator(daemon) {
            Ok((connection, status)) => Ok((Self::Operator(connection), status)),
            // Of a socket for users, or of the operators' socket: then the session is refused as well, and says why.
            Err(error) if error.status() == Status::PermissionDenied => {
                let runtime = connect_small(daemon)?;
                let status = in_time(runtime.admin().async_status(), daemon)?;
                Ok((Self::Session(runtime, RefCell::default()), status))
            }
            Err(error) => Err(error),
        }
    }

    /// The socket at which the daemon listens.
    pub(super) fn socket(&self) -> &Path {
        let socket = match self {
            Self::Operator(connection) => connection.socket(),
            Self::Session(runtime, _) => runtime.daemon().socket.as_deref(),
        };
        socket.unwrap_or(Path::new(""))
    }

    /// The daemon's status, as far as it is known at once.
    pub(super) fn status_within(&self, patience: Duration) -> Option<Result<RuntimeStatus, Error>> {
        match self {
            Self::Operator(connection) => connection.status_within(patience),
            Self::Session(runtime, _) => {
                let answer = runtime.admin().async_status().wait_timeout(patience);
                answer.map(|answer| answer.map_err(Error::from))
            }
        }
    }

    /// Orders the daemon to stop, or waits on for the end of its pools.
    pub(super) fn stop_within(&self, patience: Duration) -> Option<Result<(), Error>> {
        match self {
            Self::Operator(connection) => connection.stop_within(patience),
            Self::Session(runtime, order) => {
                let mut order = order.borrow_mut();
                let order = order.get_or_insert_with(|| runtime.admin().async_stop_runtime());
                let answer = order.wait_timeout(patience);
                answer.map(|answer| answer.map_err(Error::from))
            }
        }
    }

    /// A file that tells the end of the daemon's process, where there is one.
    pub(super) fn watch_daemon(&self) -> Result<Option<OwnedFd>, Error> {
        match self {
            Self::Operator(connection) => connection.watch_daemon(),
            Self::Session(runtime, _) => runtime.watch_daemon(),
        }
    }

    /// Whether the daemon has not closed the connection.
    pub(super) fn is_connected(&self) -> bool {
        match self {
            Self::Operator(connection) => connection.is_connected(),
            Self::Session(runtime, _) => runtime.is_connected(),
        }
    }
}
