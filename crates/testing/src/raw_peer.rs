//! A peer of a host's socket that sends whatever it likes: any bytes, any files beside them, at any time.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use chimaera_proto::control::{self, ControlReply, ControlRequest};
use chimaera_proto::limits::MAX_CONTROL_MESSAGE_BYTES;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType,
    UnixAddr, connect, recvmsg, sendmsg, shutdown, socket,
};

use crate::time_limit::PATIENCE;

/// The most files that the kernel carries beside one packet.
pub const MAX_FILES_BESIDE: usize = 253;

/// A connection of which nothing is expected. Never waits for the host, unless told to, and never fails where the host
/// has closed the connection.
#[derive(Debug)]
pub struct RawPeer {
    socket: OwnedFd,
}

/// What came of waiting for an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum PeerAnswer {
    /// The number of a request, and the reply to it.
    Reply(u64, ControlReply),
    /// A packet that is no reply.
    NoReply,
    /// The host has closed the connection.
    End,
}

impl RawPeer {
    /// Connects to a host's socket. `Ok(None)`: its queue of connections is full.
    ///
    /// # Errors
    /// The system's, if nobody listens there.
    pub fn connect(path: &Path) -> io::Result<Option<Self>> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        match connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
            Ok(()) => Ok(Some(Self { socket })),
            Err(nix::Error::EAGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A connection that is there already.
    #[must_use]
    pub const fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a packet of any bytes with any files beside it. Gives whether it was taken: the host may have closed the
    /// connection, or not have read what was sent before; or the system may refuse that many files.
    pub fn send(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> bool {
        let files: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&files)];
        let control = if files.is_empty() {
            &rights[..0]
        } else {
            &rights[..]
        };
        let slices = [IoSlice::new(bytes)];
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let socket = self.socket.as_raw_fd();
        sendmsg::<UnixAddr>(socket, &slices, control, flags, None).is_ok()
    }

    /// Sends a request under a number, as [`Self::send`].
    ///
    /// # Panics
    /// If it is too long for a packet.
    pub fn request(&self, number: u64, request: &ControlRequest, files: &[BorrowedFd<'_>]) -> bool {
        let bytes = control::encode(number, request).expect("encodes");
        self.send(&bytes, files)
    }

    /// Says that nothing more will be sent, or read.
    pub fn shut_down(&self, how: Shutdown) {
        let _ = shutdown(self.socket.as_raw_fd(), how);
    }

    /// The next packet, if one is there. A file beside it is closed.
    #[must_use]
    pub fn try_receive(&self) -> Option<PeerAnswer> {
        self.receive_now().0
    }

    /// The file beside the next packet, if there is one.
    ///
    /// # Panics
    /// As [`Self::receive`].
    #[must_use]
    pub fn receive_with_file(&self) -> Option<OwnedFd> {
        loop {
            if let (Some(_), file) = self.receive_now() {
                return file;
            }
            self.wait();
        }
    }

    fn receive_now(&self) -> (Option<PeerAnswer>, Option<OwnedFd>) {
        let mut bytes = vec![0; MAX_CONTROL_MESSAGE_BYTES];
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let mut control = nix::cmsg_space!([RawFd; 1]);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let socket = self.socket.as_raw_fd();
        let received = recvmsg::<UnixAddr>(socket, &mut slices, Some(&mut control), flags);
        let mut file = None;
        let len = match received {
            Ok(message) => {
                for message in message.cmsgs().into_iter().flatten() {
                    if let ControlMessageOwned::ScmRights(files) = message {
                        file = files.into_iter().map(owned).next_back();
                    }
                }
                message.bytes
            }
            Err(nix::Error::EAGAIN) => return (None, None),
            Err(_) => return (Some(PeerAnswer::End), None),
        };
        if len == 0 {
            return (Some(PeerAnswer::End), file);
        }
        let decoded = control::decode(&bytes[..len]);
        let answer = decoded.map_or(PeerAnswer::NoReply, |(number, reply)| {
            PeerAnswer::Reply(number, reply)
        });
        (Some(answer), file)
    }

    /// The next packet.
    ///
    /// # Panics
    /// If none comes, nor the end of the connection.
    #[must_use]
    pub fn receive(&self) -> PeerAnswer {
        loop {
            if let Some(answer) = self.try_receive() {
                return answer;
            }
            self.wait();
        }
    }

    /// Waits until there is something to receive.
    fn wait(&self) {
        let mut files = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(PATIENCE).expect("a minute");
        let ready = poll(&mut files, timeout).unwrap_or(1);
        assert!(ready != 0, "the host answers nothing");
    }
}

fn owned(file: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just given it to this process, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(file) }
}
