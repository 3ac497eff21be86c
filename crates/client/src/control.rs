//! The control socket: one request at a time, files beside it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use chimaera_proto::Status;
use chimaera_proto::control::{self, ControlError, Reply, Request};
use chimaera_proto::socket_path::SOCKET_VARIABLE;
use chimaera_shm::packet;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use parking_lot::Mutex;

use crate::error::Error;

/// How long the daemon may take for an answer. Its control side answers in microseconds; this
/// is for one that hangs.
const PATIENCE_SECONDS: i64 = 20;

/// The socket to the daemon.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    socket: Arc<OwnedFd>,
    /// Why nothing more can be asked, if so. After a request without an answer, a later answer
    /// would be taken for another's.
    broken: Mutex<Option<Status>>,
}

impl ControlSocket {
    /// Connects to the daemon that listens at `path`.
    pub(crate) fn connect(path: &Path) -> Result<Self, Error> {
        let operation = || format!("connecting to the runtime at {}", path.display());
        let failed = |errno: Errno| {
            let error = Error::io(&errno.into(), operation());
            match errno {
                Errno::ENOENT | Errno::ECONNREFUSED => {
                    error.without_daemon().with_account(format!(
                        "no daemon listens there: start one (`chimaera runtime start`), or set \
                     {SOCKET_VARIABLE} to the socket of one that runs"
                    ))
                }
                Errno::EACCES | Errno::EPERM => error.with_detail(
                    "this user may not use the daemon: its operator decides who may, by the \
                     socket's mode",
                ),
                Errno::EAGAIN => error.with_detail("the daemon does not accept connections"),
                _ => error,
            }
        };
        let kind = SockType::SeqPacket;
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, kind, flags, None).map_err(failed)?;
        limit_waiting(&socket).map_err(failed)?;
        let address = UnixAddr::new(path).map_err(failed)?;
        connect(socket.as_raw_fd(), &address).map_err(failed)?;
        Ok(Self::new(socket))
    }

    /// Uses a socket of type `SOCK_SEQPACKET` whose other end a host holds already.
    pub(crate) fn from_socket(socket: OwnedFd) -> Result<Self, Error> {
        let failed = |errno: Errno| Error::io(&errno.into(), "using the socket of a runtime");
        let flags = fcntl(&socket, FcntlArg::F_GETFL).map_err(failed)?;
        let blocking = OFlag::from_bits_retain(flags) - OFlag::O_NONBLOCK;
        fcntl(&socket, FcntlArg::F_SETFL(blocking)).map_err(failed)?;
        limit_waiting(&socket).map_err(failed)?;
        Ok(Self::new(socket))
    }

    fn new(socket: OwnedFd) -> Self {
        Self {
            socket: Arc::new(socket),
            broken: Mutex::default(),
        }
    }

    /// The socket itself, for whoever watches it or ends the connection.
    pub(crate) fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    /// Sends a request and waits for its reply, which is not a refusal.
    ///
    /// # Errors
    /// A refusal, another version, a connection that is lost, or no answer in time.
    pub(crate) fn request(
        &self,
        request: &Request,
        file: Option<BorrowedFd<'_>>,
        operation: &str,
    ) -> Result<(Reply, Option<OwnedFd>), Error> {
        let mut broken = self.broken.lock();
        match *broken {
            None => {}
            Some(Status::Busy) => {
                return Err(Error::new(Status::Busy, operation)
                    .with_detail("the daemon did not answer an earlier request; connect again"));
            }
            Some(status) => return Err(Error::new(status, operation)),
        }
        let exchanged = self.exchange(request, file, operation);
        let (reply, file) = exchanged.inspect_err(|error| *broken = Some(error.status()))?;
        match reply {
            Reply::Refused { status, reason } => {
                Err(Error::new(status, operation).with_account(reason))
            }
            reply => Ok((reply, file)),
        }
    }

    fn exchange(
        &self,
        request: &Request,
        file: Option<BorrowedFd<'_>>,
        operation: &str,
    ) -> Result<(Reply, Option<OwnedFd>), Error> {
        let bytes = control::encode(request).map_err(|error| unreadable(&error, operation))?;
        let exchanged =
            packet::send(&*self.socket, &bytes, file).and_then(|()| packet::receive(&*self.socket));
        let Some(packet) = exchanged.map_err(|error| lost(&error, operation))? else {
            return Err(Error::new(Status::ConnectionLost, operation));
        };
        let reply =
            control::decode(&packet.bytes).map_err(|error| unreadable(&error, operation))?;
        Ok((reply, packet.file))
    }
}

/// No answer is an error after a while, not a hang.
fn limit_waiting(socket: &impl AsFd) -> nix::Result<()> {
    let patience = TimeVal::new(PATIENCE_SECONDS, 0);
    setsockopt(socket, sockopt::ReceiveTimeout, &patience)?;
    setsockopt(socket, sockopt::SendTimeout, &patience)
}

fn lost(error: &io::Error, operation: &str) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => Error::new(Status::Busy, operation).with_detail(format!(
            "the daemon did not answer for {PATIENCE_SECONDS} seconds; see its log"
        )),
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::NotConnected => Error::new(Status::ConnectionLost, operation),
        io::ErrorKind::InvalidData => {
            Error::new(Status::ProtocolViolation, operation).with_detail(error)
        }
        _ => Error::io(error, operation),
    }
}

fn unreadable(error: &ControlError, operation: &str) -> Error {
    let status = match error {
        ControlError::Version { .. } => Status::Unsupported,
        ControlError::TooLong(_) => Status::InvalidArgument,
        _ => Status::ProtocolViolation,
    };
    Error::new(status, operation).with_detail(error)
}
