//! The control socket: one request at a time, files beside it.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use chimaera_proto::Status;
use chimaera_proto::control::{self, ControlError, Reply, Request};
use chimaera_proto::limits::MAX_CONTROL_MESSAGE_BYTES;
use chimaera_proto::socket_path::SOCKET_VARIABLE;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    connect, recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use parking_lot::Mutex;

use crate::error::Error;

/// How long the daemon may take for an answer. Its control side answers in microseconds; this
/// is for one that hangs.
const PATIENCE_SECONDS: i64 = 20;

/// Files that may come beside a reply: more are a mistake, but must be closed then.
const MOST_FILES: usize = 4;

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
                Errno::ENOENT | Errno::ECONNREFUSED => error.without_daemon().with_detail(format!(
                    "no daemon listens there: start one (`chimaera runtime start`), or set \
                     {SOCKET_VARIABLE} to the socket of one that runs"
                )),
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
        let (reply, mut files) = exchanged.inspect_err(|error| *broken = Some(error.status()))?;
        match reply {
            Reply::Refused { status, reason } => {
                Err(Error::new(status, operation).with_detail(reason))
            }
            reply => Ok((reply, files.pop())),
        }
    }

    fn exchange(
        &self,
        request: &Request,
        file: Option<BorrowedFd<'_>>,
        operation: &str,
    ) -> Result<(Reply, Vec<OwnedFd>), Error> {
        self.send(request, file, operation)?;
        let (packet, files) = self.receive(operation)?;
        let reply = control::decode(&packet).map_err(|error| unreadable(&error, operation))?;
        Ok((reply, files))
    }

    fn send(
        &self,
        request: &Request,
        file: Option<BorrowedFd<'_>>,
        operation: &str,
    ) -> Result<(), Error> {
        let packet = control::encode(request).map_err(|error| unreadable(&error, operation))?;
        let files = file.map(|file| [file.as_raw_fd()]);
        let rights = files
            .as_ref()
            .map(|files| [ControlMessage::ScmRights(files)]);
        let rights = rights.as_ref().map_or(&[][..], |rights| &rights[..]);
        loop {
            match sendmsg::<UnixAddr>(
                self.socket.as_raw_fd(),
                &[IoSlice::new(&packet)],
                rights,
                MsgFlags::MSG_NOSIGNAL,
                None,
            ) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(lost(errno, operation)),
                Ok(_) => return Ok(()),
            }
        }
    }

    fn receive(&self, operation: &str) -> Result<(Vec<u8>, Vec<OwnedFd>), Error> {
        let mut packet = vec![0; MAX_CONTROL_MESSAGE_BYTES];
        let mut space = nix::cmsg_space!([RawFd; MOST_FILES]);
        let mut parts = [IoSliceMut::new(&mut packet)];
        let message = loop {
            match recvmsg::<UnixAddr>(
                self.socket.as_raw_fd(),
                &mut parts,
                Some(&mut space),
                MsgFlags::MSG_CMSG_CLOEXEC,
            ) {
                Err(Errno::EINTR) => {}
                result => break result.map_err(|errno| lost(errno, operation))?,
            }
        };
        let (len, flags) = (message.bytes, message.flags);
        let mut files = Vec::new();
        for part in message.cmsgs().map_err(|errno| lost(errno, operation))? {
            if let ControlMessageOwned::ScmRights(numbers) = part {
                // SAFETY: the kernel made these descriptors for this message, which is read
                // once, so nobody else owns them.
                files.extend(
                    numbers
                        .into_iter()
                        .map(|number| unsafe { OwnedFd::from_raw_fd(number) }),
                );
            }
        }
        if len == 0 {
            return Err(Error::new(Status::ConnectionLost, operation));
        }
        if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) || files.len() > 1 {
            return Err(Error::new(Status::ProtocolViolation, operation)
                .with_detail("the reply is too long or brings too many files"));
        }
        packet.truncate(len);
        Ok((packet, files))
    }
}

/// No answer is an error after a while, not a hang.
fn limit_waiting(socket: &impl AsFd) -> nix::Result<()> {
    let patience = TimeVal::new(PATIENCE_SECONDS, 0);
    setsockopt(socket, sockopt::ReceiveTimeout, &patience)?;
    setsockopt(socket, sockopt::SendTimeout, &patience)
}

fn lost(errno: Errno, operation: &str) -> Error {
    match errno {
        Errno::EAGAIN => Error::new(Status::Busy, operation).with_detail(format!(
            "the daemon did not answer for {PATIENCE_SECONDS} seconds; see its log"
        )),
        Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN => {
            Error::new(Status::ConnectionLost, operation)
        }
        errno => Error::io(&errno.into(), operation),
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
