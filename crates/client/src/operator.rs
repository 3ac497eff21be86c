//! What operators ask of the daemon as a whole, on a connection without a session.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chimaera_proto::Status;
use chimaera_proto::admin::RuntimeStatus;
use chimaera_proto::control::{ControlReply, ControlRequest};
use chimaera_proto::socket_path::SocketPlace;
use chimaera_shm::peer_process;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{UnixAddr, getpeername, getsockopt, sockopt};

use crate::control::ControlSocket;
use crate::error::Error;
use crate::options::ConnectOptions;
use crate::request_error::RequestError;

/// How long the daemon may take to look at the files of its modules before it is asked for what it knows without.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// A connection through the operators' socket that asks about the daemon as a whole: for its status, and for its end.
///
/// It has no session and no shared memory, and the daemon answers it whatever its workers, modules and other clients
/// do: also while it stops, and where a [`Runtime`](crate::Runtime) finds no room. It belongs to the thread that uses
/// it: questions wait for one another. A forked child has no part in it.
pub struct OperatorConnection {
    control: ControlSocket,
    socket: Option<PathBuf>,
    /// How errors call what it does.
    operation: String,
}

impl ConnectOptions {
    /// Connects as an operator to the daemon where [`Self::connect`] looks for one, at the user's own socket or the
    /// system's for operators.
    ///
    /// # Errors
    /// As [`Self::connect_to_as_operator`].
    pub fn connect_as_operator(self) -> Result<OperatorConnection, Error> {
        self.open_as_operator(&SocketPlace::all())
    }

    /// Connects as an operator to the daemon at this path. That the daemon does not take this process for an operator
    /// is told by the first question.
    ///
    /// # Errors
    /// [`Status::NoRuntime`] where no daemon listens there; no right to use it; [`Status::PermissionDenied`] also if
    /// somebody runs it who is not trusted.
    pub fn connect_to_as_operator(
        self,
        path: impl AsRef<Path>,
    ) -> Result<OperatorConnection, Error> {
        self.open_as_operator(&[SocketPlace::named(path.as_ref())])
    }

    fn open_as_operator(self, places: &[SocketPlace]) -> Result<OperatorConnection, Error> {
        let control = self.find_daemon(places)?;
        let socket = getpeername::<UnixAddr>(control.socket().as_raw_fd()).ok();
        Ok(OperatorConnection {
            operation: control.connecting(),
            socket: socket.and_then(|address| address.path().map(Path::to_owned)),
            control,
        })
    }
}

impl OperatorConnection {
    /// The path of the socket at which the daemon listens.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// What the daemon knows of itself. The files of its modules are looked at for that, unless it takes longer than a
    /// second: then the answer says what was seen of them before.
    ///
    /// # Errors
    /// [`Status::PermissionDenied`] on a socket for users, or to whoever is no operator; [`Status::Unsupported`] from a
    /// daemon of another version; [`Status::Busy`] where the daemon does not answer for 20 s;
    /// [`Status::ConnectionLost`].
    pub fn status(&self) -> Result<RuntimeStatus, Error> {
        let looked = in_time(self.ask(true, Instant::now() + LOOK_PATIENCE));
        looked.unwrap_or_else(|| {
            let deadline = Instant::now() + self.control.reply_timeout();
            Ok(self.ask(false, deadline)?)
        })
    }

    /// As [`Self::status`], at once and without a look at any file; `None` where the daemon does not answer for this
    /// long.
    ///
    /// # Errors
    /// As there.
    pub fn status_within(&self, patience: Duration) -> Option<Result<RuntimeStatus, Error>> {
        in_time(self.ask(false, Instant::now() + patience))
    }

    fn ask(&self, looks_at_files: bool, deadline: Instant) -> Result<RuntimeStatus, RequestError> {
        let request = ControlRequest::GetStatus { looks_at_files };
        let answer = self
            .control
            .request_by(&request, None, deadline, &self.operation);
        match answer?.0 {
            ControlReply::Status(status) => Ok(*status),
            _ => Err(RequestError::unexpected(&self.operation)),
        }
    }

    /// Has the daemon stop, and waits this long for the end of its pools; `None` where they have not ended by then.
    /// Called again it waits on for the same end.
    ///
    /// # Errors
    /// What [`Self::status`] may fail with; [`Status::ShuttingDown`] if somebody else has stopped it before; and what
    /// keeps a pool from being flushed: then all pools have ended or were given up all the same.
    pub fn stop_within(&self, patience: Duration) -> Option<Result<(), Error>> {
        let operation = "stopping the runtime";
        let deadline = Instant::now() + patience;
        let request = &ControlRequest::Stop;
        let answer = self
            .control
            .request_patiently(request, deadline, operation)?;
        Some(answer.map_err(Error::from).and_then(|reply| match reply {
            ControlReply::Stopped => Ok(()),
            _ => Err(RequestError::unexpected(operation).into()),
        }))
    }

    /// Whether the daemon has not closed the connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        let mut sockets = [PollFd::new(
            self.control.socket().as_fd(),
            PollFlags::empty(),
        )];
        !matches!(poll(&mut sockets, PollTimeout::ZERO), Ok(1..))
    }

    /// As [`Runtime::watch_daemon`](crate::Runtime::watch_daemon).
    ///
    /// # Errors
    /// As there.
    pub fn watch_daemon(&self) -> Result<Option<OwnedFd>, Error> {
        let operation = "watching the runtime's process";
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Error::new(Status::ConnectionLost, operation),
            _ => Error::io(&error, operation),
        };
        let socket = self.control.socket();
        let peer = getsockopt(&**socket, sockopt::PeerCredentials);
        let peer = peer.map_err(|errno| failed(errno.into()))?;
        peer_process::watch(&**socket, peer.pid()).map_err(failed)
    }
}

/// An answer, unless it did not come in time.
fn in_time<T>(answer: Result<T, RequestError>) -> Option<Result<T, Error>> {
    match answer {
        Err(error) if !error.is_settled && error.error.status() == Status::Busy => None,
        answer => Some(answer.map_err(Error::from)),
    }
}

impl fmt::Debug for OperatorConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperatorConnection")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}
