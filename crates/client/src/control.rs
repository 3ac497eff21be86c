//! The control socket: one request at a time, with or without a file.
//!
//! Laws of this module:
//! - Replies name their requests. The reply to a request that was given up is discarded, and its file closed. So a slow
//!   daemon, or a shortage in this process, fails only the request that it happened to, and the next one works.
//! - If a request fails and was not refused, it is not known whether the daemon carries it out. The same request may be
//!   sent again, which does no harm if the daemon did.
//! - No request is sent once the daemon is gone, or has sent something that is not of this protocol.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chimaera_fork::Private;
use chimaera_proto::control::{self, ControlError, ControlReply, ControlRequest, NO_REQUEST};
use chimaera_proto::socket_path::{MAX_SOCKET_PATH_BYTES, SocketPlace};
use chimaera_proto::{Failure, Status};
use chimaera_shm::{Shortage, packet};
use chimaera_thread::standstill::Standstill;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::error::Error;
use crate::reentrancy::{Inside, Mutex, refuse_inside};
use crate::request_error::RequestError;

/// How long the daemon may take for a reply. Its control side replies in microseconds; this is for a daemon that
/// hangs.
pub(crate) const DEFAULT_REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// The socket to the daemon.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    socket: Arc<Private<OwnedFd>>,
    /// The place that it is connected to. `None` for a socket that the application has given.
    place: Option<SocketPlace>,
    /// How long a request may take, waiting for other threads' requests included.
    reply_timeout: Duration,
    exchanges: Mutex<Exchanges>,
}

/// What one request at a time holds.
#[derive(Debug)]
struct Exchanges {
    /// The number of the next request.
    next: u64,
    /// Why no further request can be sent, if so.
    ended: Option<ConnectionEnd>,
    /// A request whose reply is not thrown away though other requests come before it.
    kept: Option<KeptRequest>,
}

#[derive(Debug)]
struct KeptRequest {
    number: u64,
    reply: Option<ControlReply>,
}

/// Why the connection has ended.
#[derive(Debug)]
struct ConnectionEnd {
    status: Status,
    account: Option<String>,
}

/// Why a request failed.
enum ExchangeError {
    /// This request only: further ones can be sent.
    Transient(RequestError),
    /// The end of the connection.
    Fatal(ConnectionEnd),
}

impl ControlSocket {
    /// Connects to the daemon that listens at this place.
    pub(crate) fn connect(place: &SocketPlace, reply_timeout: Duration) -> Result<Self, Error> {
        let operation = || format!("connecting to the runtime at {place}");
        let path = place.path();
        refuse_inside(format_args!("connecting to the runtime at {place}"))?;
        let failed = |errno: Errno| {
            let error = Error::io(&errno.into(), operation());
            match errno {
                Errno::ENOENT | Errno::ENOTDIR | Errno::ECONNREFUSED => {
                    let failure = Failure {
                        status: Status::NoRuntime,
                        ..error.failure()
                    };
                    Error::new(failure, operation())
                }
                Errno::EACCES | Errno::EPERM => error.with_detail(
                    "this user may not use the daemon: its operator decides who may, by the \
                     socket's mode",
                ),
                Errno::EPROTOTYPE => error.with_account(
                    "the socket there is another program's: name that of a daemon",
                ),
                Errno::EAGAIN => error.with_detail("the daemon does not accept connections"),
                Errno::ENAMETOOLONG => error.with_account(format!(
                    "a socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes, and this one has {}",
                    path.as_os_str().len()
                )),
                _ => error,
            }
        };
        let kind = SockType::SeqPacket;
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = {
            let _inside = Inside::enter();
            Private::new(|| Ok(socket(AddressFamily::Unix, kind, flags, None)?))
        };
        let socket = socket.map_err(|error| Error::io(&error, operation()))?;
        set_timeouts(&socket, reply_timeout).map_err(failed)?;
        let address = UnixAddr::new(path).map_err(failed)?;
        connect(socket.as_raw_fd(), &address).map_err(failed)?;
        Ok(Self::new(socket, Some(place.clone()), reply_timeout))
    }

    /// Uses a socket of type `SOCK_SEQPACKET` whose other end a host holds.
    pub(crate) fn from_socket(socket: OwnedFd, reply_timeout: Duration) -> Result<Self, Error> {
        let failed = |errno: Errno| Error::io(&errno.into(), "using the socket of a runtime");
        refuse_inside("using the socket of a runtime")?;
        let flags = fcntl(&socket, FcntlArg::F_GETFL).map_err(failed)?;
        let blocking = OFlag::from_bits_retain(flags) - OFlag::O_NONBLOCK;
        fcntl(&socket, FcntlArg::F_SETFL(blocking)).map_err(failed)?;
        set_timeouts(&socket, reply_timeout).map_err(failed)?;
        let adopted = {
            let _inside = Inside::enter();
            Private::adopt(socket)
        };
        let socket =
            adopted.map_err(|(_, error)| Error::io(&error, "using the socket of a runtime"))?;
        Ok(Self::new(socket, None, reply_timeout))
    }

    fn new(socket: Private<OwnedFd>, place: Option<SocketPlace>, reply_timeout: Duration) -> Self {
        Self {
            socket: Arc::new(socket),
            place,
            reply_timeout,
            exchanges: Mutex::new(Exchanges {
                next: NO_REQUEST + 1,
                ended: None,
                kept: None,
            }),
        }
    }

    /// The socket itself, to watch it or to end the connection.
    pub(crate) fn socket(&self) -> &Arc<Private<OwnedFd>> {
        &self.socket
    }

    /// How errors call connecting with this socket.
    pub(crate) fn connecting(&self) -> String {
        match &self.place {
            Some(place) => format!("connecting to the runtime at {place}"),
            None => "connecting to the runtime".to_owned(),
        }
    }

    /// Sends a request and waits for its reply, which is not a refusal. The timeout is counted from `since`, when the
    /// caller began to wait for what the request is about. A caller whose time has passed behind another request, which
    /// a silent daemon did not answer, sends none.
    ///
    /// # Errors
    /// A refusal: the request is not carried out. Another version, or a lost connection. And, with the connection going
    /// on, no reply in time ([`Status::Busy`]) or a shortage in this process: the request may be carried out or not,
    /// and can be repeated.
    pub(crate) fn request(
        &self,
        request: &ControlRequest,
        file: Option<BorrowedFd<'_>>,
        since: Instant,
        operation: &str,
    ) -> Result<(ControlReply, Option<OwnedFd>), RequestError> {
        self.request_by(request, file, since + self.reply_timeout, operation)
    }

    /// How long a request may take.
    pub(crate) fn reply_timeout(&self) -> Duration {
        self.reply_timeout
    }

    /// As [`Self::request`], until this deadline.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn request_by(
        &self,
        request: &ControlRequest,
        file: Option<BorrowedFd<'_>>,
        deadline: Instant,
        operation: &str,
    ) -> Result<(ControlReply, Option<OwnedFd>), RequestError> {
        let exchanges = self.exchanges.try_lock_until(deadline);
        let Some(mut exchanges) = exchanges.filter(|_| Instant::now() < deadline) else {
            return Err(RequestError::unsettled(self.no_answer(operation)));
        };
        if let Some(end) = &exchanges.ended {
            return Err(RequestError::unsettled(end.error(operation)));
        }
        let number = exchanges.next;
        exchanges.next += 1;
        let answer = self
            .send(number, request, file, operation)
            .and_then(|is_closed| {
                self.await_reply(&mut exchanges, (number, is_closed), deadline, operation)
            });
        answer.map_err(|error| exchanges.note(error, operation))
    }

    /// Sends a request that the daemon may take long to answer, and waits for the reply until this deadline; `None`
    /// where it has not come by then. Called again, it only waits on: other requests may have been answered in between.
    /// A connection has one such request.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub(crate) fn request_patiently(
        &self,
        request: &ControlRequest,
        deadline: Instant,
        operation: &str,
    ) -> Option<Result<ControlReply, RequestError>> {
        let mut exchanges = self.exchanges.try_lock_until(deadline)?;
        let mut is_closed = false;
        let number = match &mut exchanges.kept {
            Some(KeptRequest { number, reply }) => match reply.take() {
                Some(reply) => return Some(settled(reply, operation)),
                None => *number,
            },
            None => {
                let number = exchanges.next;
                exchanges.next += 1;
                match self.send(number, request, None, operation) {
                    Ok(closed) => is_closed = closed,
                    Err(error) => return Some(Err(exchanges.note(error, operation))),
                }
                let reply = None;
                exchanges.kept = Some(KeptRequest { number, reply });
                number
            }
        };
        if let Some(end) = &exchanges.ended {
            return Some(Err(RequestError::unsettled(end.error(operation))));
        }
        match self.await_reply(&mut exchanges, (number, is_closed), deadline, operation) {
            Ok((reply, _)) => Some(Ok(reply)),
            Err(ExchangeError::Transient(error))
                if !error.is_settled && error.error.status() == Status::Busy =>
            {
                None
            }
            Err(error) => Some(Err(exchanges.note(error, operation))),
        }
    }

    /// Sends a request. Gives whether the daemon has closed the connection: what it sent before can still be read.
    fn send(
        &self,
        number: u64,
        request: &ControlRequest,
        file: Option<BorrowedFd<'_>>,
        operation: &str,
    ) -> Result<bool, ExchangeError> {
        let bytes = control::encode(number, request).map_err(|error| {
            let error = Error::new(Status::InvalidArgument, operation).with_detail(error);
            ExchangeError::Transient(RequestError::unsettled(error))
        })?;
        match packet::send(&*self.socket, &bytes, file) {
            Ok(()) => Ok(false),
            Err(error) if is_close(&error) => Ok(true),
            Err(error) => Err(self.error_of(&error, operation)),
        }
    }

    /// Waits for the reply to a request that was sent.
    fn await_reply(
        &self,
        exchanges: &mut Exchanges,
        (number, mut is_closed): (u64, bool),
        deadline: Instant,
        operation: &str,
    ) -> Result<(ControlReply, Option<OwnedFd>), ExchangeError> {
        loop {
            if !self.is_readable(deadline) {
                return Err(ExchangeError::Transient(RequestError::unsettled(
                    self.no_answer(operation),
                )));
            }
            let packet = match packet::receive(&*self.socket) {
                Ok(Some(packet)) => packet,
                Ok(None) => {
                    return Err(ExchangeError::Fatal(ConnectionEnd::new(
                        Status::ConnectionLost,
                    )));
                }
                Err(error) if is_close(&error) && !is_closed => {
                    is_closed = true;
                    continue;
                }
                Err(error) => return Err(self.error_of(&error, operation)),
            };
            let (answered, reply) = control::decode(&packet.bytes)?;
            match (answered, reply) {
                (NO_REQUEST, ControlReply::Refused { status, reason }) => {
                    return Err(ExchangeError::Fatal(ConnectionEnd {
                        status,
                        account: Some(reason),
                    }));
                }
                (1.., reply) if answered < number => exchanges.keep(answered, reply),
                (_, ControlReply::Refused { status, reason }) if answered == number => {
                    return Err(ExchangeError::Transient(RequestError::refused(
                        status, reason, operation,
                    )));
                }
                (_, _) if answered == number && packet.lost_file => {
                    let error = Error::io(&Errno::EMFILE.into(), operation);
                    return Err(ExchangeError::Transient(RequestError::unsettled(error)));
                }
                (_, reply) if answered == number => return Ok((reply, packet.file)),
                _ => {
                    return Err(ExchangeError::Fatal(ConnectionEnd {
                        status: Status::ProtocolViolation,
                        account: Some("the daemon answers what was not asked".to_owned()),
                    }));
                }
            }
        }
    }

    /// Waits until a packet can be received, or the connection has ended. Returns false if neither happens in time.
    /// Receiving does not block afterwards, because nobody else receives.
    fn is_readable(&self, deadline: Instant) -> bool {
        let mut sockets = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so that the last check is not before the deadline.
            let millis = i32::try_from(rest.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
            let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
            match poll(&mut sockets, timeout) {
                Ok(0) if rest.is_zero() => return false,
                Ok(0) | Err(Errno::EINTR) => {}
                // Receiving will say what is wrong.
                Ok(_) | Err(_) => return true,
            }
        }
    }

    /// What an error of the socket means for the request and the connection.
    fn error_of(&self, error: &io::Error, operation: &str) -> ExchangeError {
        let status = error.raw_os_error().map(Status::from_errno);
        match (error.kind(), status) {
            (io::ErrorKind::WouldBlock, _) => {
                ExchangeError::Transient(RequestError::unsettled(self.no_answer(operation)))
            }
            _ if Shortage::of(error).is_some() => {
                ExchangeError::Transient(RequestError::unsettled(Error::io(error, operation)))
            }
            (io::ErrorKind::InvalidData, _) => ExchangeError::Fatal(ConnectionEnd {
                status: Status::ProtocolViolation,
                account: Some(error.to_string()),
            }),
            _ if is_close(error) => {
                ExchangeError::Fatal(ConnectionEnd::new(Status::ConnectionLost))
            }
            (_, status) => ExchangeError::Fatal(ConnectionEnd {
                status: status.unwrap_or(Status::IoError),
                account: Some(format!("the connection to the daemon fails: {error}")),
            }),
        }
    }

    fn no_answer(&self, operation: &str) -> Error {
        let peer = getsockopt(&**self.socket, sockopt::PeerCredentials);
        let standstill = peer.ok().and_then(|peer| Standstill::of(peer.pid()));
        let why = match standstill {
            Some(standstill) => format!("its process {standstill}"),
            None => "its log may say why; try again".to_owned(),
        };
        let account = format!(
            "the daemon did not answer for {:?}: {why}",
            self.reply_timeout
        );
        Error::new(Status::Busy, operation).with_account(account)
    }
}

impl Exchanges {
    /// Keeps the reply to a request that is waited for later. Any other is thrown away.
    fn keep(&mut self, answered: u64, reply: ControlReply) {
        if let Some(kept) = self.kept.as_mut().filter(|kept| kept.number == answered) {
            kept.reply = Some(reply);
        }
    }

    /// Notes the failure of a request, which may be the end of the connection.
    fn note(&mut self, error: ExchangeError, operation: &str) -> RequestError {
        match error {
            ExchangeError::Transient(error) => error,
            ExchangeError::Fatal(end) => {
                RequestError::unsettled(self.ended.insert(end).error(operation))
            }
        }
    }
}

/// A reply that was kept, as what comes of its request.
fn settled(reply: ControlReply, operation: &str) -> Result<ControlReply, RequestError> {
    match reply {
        ControlReply::Refused { status, reason } => {
            Err(RequestError::refused(status, reason, operation))
        }
        reply => Ok(reply),
    }
}

impl ConnectionEnd {
    fn new(status: Status) -> Self {
        Self {
            status,
            account: None,
        }
    }

    fn error(&self, operation: &str) -> Error {
        let error = Error::new(self.status, operation);
        match &self.account {
            Some(account) => error.with_account(account),
            None => error,
        }
    }
}

impl From<ControlError> for ExchangeError {
    fn from(error: ControlError) -> Self {
        Self::Fatal(ConnectionEnd {
            status: match error {
                ControlError::Version { .. } => Status::Unsupported,
                _ => Status::ProtocolViolation,
            },
            account: Some(error.to_string()),
        })
    }
}

/// Whether the other side has closed the connection.
fn is_close(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}

/// Makes connecting, sending and receiving fail after the timeout, where they would hang.
fn set_timeouts(socket: &impl AsFd, reply_timeout: Duration) -> nix::Result<()> {
    let reply_timeout = TimeVal::new(
        reply_timeout.as_secs() as i64,
        i64::from(reply_timeout.subsec_micros()),
    );
    setsockopt(socket, sockopt::ReceiveTimeout, &reply_timeout)?;
    setsockopt(socket, sockopt::SendTimeout, &reply_timeout)
}
