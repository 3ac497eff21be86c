//! Control packets with at most one file beside them, over a `SOCK_SEQPACKET` socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use chimaera_proto::limits::MAX_CONTROL_MESSAGE_BYTES;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

/// A packet as it came in.
#[derive(Debug)]
pub struct Packet {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The file beside it.
    pub file: Option<OwnedFd>,
}

/// Sends a packet whole. Never raises SIGPIPE.
///
/// # Errors
/// The other side is gone; or, on a non-blocking socket, it does not read.
pub fn send(socket: impl AsFd, bytes: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let files: Vec<RawFd> = file.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&files)];
    let control = if files.is_empty() {
        &rights[..0]
    } else {
        &rights[..]
    };
    let slices = [IoSlice::new(bytes)];
    let socket = socket.as_fd().as_raw_fd();
    loop {
        match sendmsg::<UnixAddr>(socket, &slices, control, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => return Ok(()),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives a packet, or `None` once the other side has closed the connection.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for a packet that is longer than
/// [`MAX_CONTROL_MESSAGE_BYTES`] or has more than one file beside it (those are closed); else
/// what the system reports. On a non-blocking socket [`io::ErrorKind::WouldBlock`] means that
/// there is no packet.
pub fn receive(socket: impl AsFd) -> io::Result<Option<Packet>> {
    let mut bytes = vec![0; MAX_CONTROL_MESSAGE_BYTES];
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let socket = socket.as_fd().as_raw_fd();
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let (len, flags, file) = loop {
        match recvmsg::<UnixAddr>(socket, &mut slices, Some(&mut control), flags) {
            Ok(message) => {
                let mut file = None;
                // A truncated control area still carries the files that fitted: take them, so
                // that they are closed.
                for part in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(files) = part {
                        for received in files {
                            // SAFETY: the kernel has just made this descriptor for us.
                            file = Some(unsafe { OwnedFd::from_raw_fd(received) });
                        }
                    }
                }
                break (message.bytes, message.flags, file);
            }
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a control packet is too long, or carries more than one file",
        ));
    }
    if len == 0 {
        return Ok(None);
    }
    bytes.truncate(len);
    Ok(Some(Packet { bytes, file }))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .expect("socketpair")
    }

    #[test]
    fn packets_keep_their_bounds_and_their_files() {
        let (a, b) = pair();
        let file = std::fs::File::open("/dev/null").expect("open");
        send(&a, b"one", None).expect("send");
        send(&a, b"two", Some(file.as_fd())).expect("send");
        drop(a);
        let one = receive(&b).expect("receive").expect("packet");
        assert_eq!((&*one.bytes, one.file.is_some()), (&b"one"[..], false));
        let two = receive(&b).expect("receive").expect("packet");
        assert_eq!((&*two.bytes, two.file.is_some()), (&b"two"[..], true));
        assert!(
            receive(&b).expect("receive").is_none(),
            "the end of the connection"
        );
    }

    #[test]
    fn packets_that_do_not_fit_are_errors() {
        let (a, b) = pair();
        send(&a, &vec![0; MAX_CONTROL_MESSAGE_BYTES + 1], None).expect("send");
        assert_eq!(
            receive(&b).expect_err("too long").kind(),
            io::ErrorKind::InvalidData
        );
        let null = std::fs::File::open("/dev/null").expect("open");
        let files = [null.as_raw_fd(); 4];
        let rights = [ControlMessage::ScmRights(&files)];
        let bytes = [IoSlice::new(b"many")];
        sendmsg::<UnixAddr>(a.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None).expect("send");
        assert_eq!(
            receive(&b).expect_err("too many").kind(),
            io::ErrorKind::InvalidData
        );
    }
}
