//! Connecting: the handshake with a daemon, and what a connection begins with.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use chimaera_fork::{Home, Native};
use chimaera_proto::Status;
use chimaera_proto::control::{ControlReply, ControlRequest};
use chimaera_proto::limits::DATA_OFFSET_BYTES;
use chimaera_proto::socket_path::SocketPlace;
use chimaera_shm::{PublishOrder, Segment, barrier};
use nix::errno::Errno;
use nix::sys::socket::{UnixAddr, getpeername};

use crate::connection::ClientConnection;
use crate::control::ControlSocket;
use crate::error::Error;
use crate::finding;
use crate::lane_pool::LanePool;
use crate::memory::BufferMemory;
use crate::options::ConnectOptions;
use crate::reentrancy::{Inside, Mutex};
use crate::request_error::RequestError;
use crate::runtime::Runtime;
use crate::runtime_inner::{DaemonInfo, RuntimeInner};

impl Runtime {
    /// Connects to the user's daemon or the system's; see [`ConnectOptions::connect`]. Blocks for the daemon's answers;
    /// there is no twin that does not.
    ///
    /// # Errors
    /// As [`ConnectOptions::connect_to`].
    pub fn connect() -> Result<Self, Error> {
        ConnectOptions::new().connect()
    }

    /// Connects to the daemon at this path.
    ///
    /// # Errors
    /// As [`ConnectOptions::connect_to`].
    pub fn connect_to(path: impl AsRef<Path>) -> Result<Self, Error> {
        ConnectOptions::new().connect_to(path)
    }

    /// Connects over a socket of type `SOCK_SEQPACKET` whose other end a host holds. A daemon ends the session when
    /// the process dies that called `connect(2)` for the socket, whoever has it since.
    ///
    /// # Errors
    /// As [`ConnectOptions::connect_to`].
    pub fn from_socket(socket: OwnedFd) -> Result<Self, Error> {
        ConnectOptions::new().from_socket(socket)
    }
}

impl ConnectOptions {
    /// Connects to the daemon where daemons listen if nobody says otherwise: at the user's own socket, or else at the
    /// system's: that for operators, and where this process is none, that for users ([`SocketPlace::all`]). Blocks for
    /// the daemon's answers; there is no twin that does not.
    ///
    /// # Errors
    /// As [`Self::connect_to`].
    pub fn connect(mut self) -> Result<Runtime, Error> {
        self.connect_anywhere()
    }

    /// As [`Self::connect`].
    pub(crate) fn connect_anywhere(&mut self) -> Result<Runtime, Error> {
        let places = SocketPlace::all();
        let [own, operators, users] = places.as_slice() else {
            return self.open_first(&places);
        };
        match self.open_first(std::slice::from_ref(own)) {
            Err(error) if error.is_no_daemon() => {}
            opened => return opened,
        }
        // Whoever is no operator may not open the operators' socket, or is refused there.
        let refused = match self.open_first(std::slice::from_ref(operators)) {
            Err(error) if error.is_no_daemon() => None,
            Err(error) if error.status() == Status::PermissionDenied => Some(error),
            opened => return opened,
        };
        match (self.open_first(std::slice::from_ref(users)), refused) {
            // The users' socket was left by a daemon that was killed: so is the operators', most likely.
            (Err(error), Some(refused)) if error.is_no_daemon() => {
                match error.errno() == Some(Errno::ECONNREFUSED as i32) {
                    true => Err(error),
                    false => Err(refused),
                }
            }
            // The error names all places.
            (Err(error), None) if error.is_no_daemon() => self.open_first(&places),
            (opened, _) => opened,
        }
    }

    fn open_first(&mut self, places: &[SocketPlace]) -> Result<Runtime, Error> {
        Runtime::open(self.find_daemon(places)?, self)
    }

    /// Connects to the daemon at this path. Blocks as [`Self::connect`] does.
    ///
    /// # Errors
    /// [`Status::NoRuntime`](crate::Status::NoRuntime) where no daemon listens there; no right to use it, another
    /// version, or a refusal; [`Status::PermissionDenied`](crate::Status::PermissionDenied) also if somebody runs it
    /// who is not trusted; [`Status::OutOfMemory`](crate::Status::OutOfMemory),
    /// [`Status::OutOfResources`](crate::Status::OutOfResources) or, where this process may not have so large a file
    /// (`ulimit -f`), [`Status::IoError`](crate::Status::IoError) for the segment: see [`Self::buffer_bytes`].
    pub fn connect_to(mut self, path: impl AsRef<Path>) -> Result<Runtime, Error> {
        self.open_first(&[SocketPlace::named(path.as_ref())])
    }

    /// Connects over a socket of type `SOCK_SEQPACKET` whose other end a host holds. A daemon ends the session when
    /// the process dies that called `connect(2)` for the socket, whoever has it since. Blocks as [`Self::connect`]
    /// does.
    ///
    /// # Errors
    /// As [`Self::connect_to`].
    pub fn from_socket(mut self, socket: OwnedFd) -> Result<Runtime, Error> {
        let control = ControlSocket::from_socket(socket, self.control_patience)?;
        Runtime::open(control, &mut self)
    }

    /// Connects to the daemon at the first of these places where one listens.
    pub(crate) fn find_daemon(&self, places: &[SocketPlace]) -> Result<ControlSocket, Error> {
        finding::find_daemon(places, self.control_patience, &self.trust)
    }
}

impl Runtime {
    /// Opens a session. What is to be kept alive is taken from the options once there is one.
    pub(crate) fn open(
        control: ControlSocket,
        options: &mut ConnectOptions,
    ) -> Result<Self, Error> {
        let connecting = control.connecting();
        let operation = connecting.as_str();
        let inside = Inside::enter();
        let buffer_bytes = options.segment_bytes();
        let len_bytes = buffer_bytes + DATA_OFFSET_BYTES as u64;
        let segment = Segment::create("chimaera-client", len_bytes)
            .map_err(|error| Error::segment(&error, len_bytes, operation))?;
        let hello = ControlRequest::Hello {
            client_name: options.name(),
        };
        let (reply, _) =
            control.request(&hello, Some(segment.as_fd()), Instant::now(), operation)?;
        let ControlReply::Welcome {
            version,
            process_id,
            worker_count,
            parks_with_barrier,
        } = reply
        else {
            return Err(RequestError::unexpected(operation).error);
        };
        let socket = getpeername::<UnixAddr>(control.socket().as_raw_fd()).ok();
        let socket = socket.and_then(|address| address.path().map(Path::to_owned));
        let segment = Arc::new(segment);
        let order = if parks_with_barrier && barrier::register() {
            PublishOrder::HostBarrier
        } else {
            PublishOrder::Fence
        };
        let home = Home::new(LanePool::next_connection_number())
            .map_err(|error| Error::io(&error, operation))?;
        drop(inside);
        let connection = ClientConnection::new(
            home.clone(),
            control,
            Arc::clone(&segment),
            order,
            options.keep_alive.take(),
        )?;
        let connection = Arc::new(connection);
        let lanes = LanePool::new(options.spin, Arc::clone(&connection));
        Ok(Self {
            inner: Arc::new(Native::new(RuntimeInner {
                lanes: Arc::new(lanes),
                memory: Arc::new(BufferMemory::new(home, segment, buffer_bytes)),
                connection,
                daemon: DaemonInfo {
                    version,
                    process_id,
                    worker_count,
                    socket,
                },
                offers: Mutex::default(),
            })),
        })
    }
}
