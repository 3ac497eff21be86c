//! Control packets with at most one file beside them, over a `SOCK_SEQPACKET` socket.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use chimaera_proto::limits::MAX_CONTROL_MESSAGE_BYTES;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg, setsockopt, sockopt};

/// A packet as it came in.
#[derive(Debug)]
pub struct Packet {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The file beside it.
    pub file: Option<OwnedFd>,
    /// Whether a file came beside it for which this process had no descriptor left, so that the file is gone.
    pub lost_file: bool,
}

/// The bytes of a packet whose files were put elsewhere.
#[derive(Debug)]
pub struct PacketBytes {
    /// What was sent.
    pub bytes: Vec<u8>,
    /// As [`Packet::lost_file`].
    pub lost_file: bool,
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

/// Receives a packet, or `None` once the other side has closed the connection. Where descriptors have run out, the
/// packet is received without its file.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for a packet that is longer than
/// [`MAX_CONTROL_MESSAGE_BYTES`] or has more than one file beside it (those are closed); else
/// what the system reports. On a non-blocking socket [`io::ErrorKind::WouldBlock`] means that
/// there is no packet.
pub fn receive(socket: impl AsFd) -> io::Result<Option<Packet>> {
    let mut files = Vec::new();
    let received = receive_with_files(socket, &mut files)?;
    Ok(received.map(|PacketBytes { bytes, lost_file }| Packet {
        bytes,
        file: files.pop(),
        lost_file,
    }))
}

/// Like [`receive`], for a caller that does not trust the other side: every file that came in is put
/// into `files`, those of a refused packet too. Closing a file of a stranger's choice may take as
/// long as the stranger likes.
///
/// # Errors
/// As [`receive`], but nothing is closed.
pub fn receive_with_files(
    socket: impl AsFd,
    files: &mut Vec<OwnedFd>,
) -> io::Result<Option<PacketBytes>> {
    let mut bytes = vec![0; MAX_CONTROL_MESSAGE_BYTES];
    let mut control = ControlArea([0; CONTROL_BYTES]);
    let mut slice = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: a message header of zeros is valid: everything absent.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES as _;
    let socket = socket.as_fd().as_raw_fd();
    let len = loop {
        // SAFETY: the header points to buffers of the lengths it says, which outlive the call.
        let result = unsafe { libc::recvmsg(socket, &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(result) {
            Ok(len) => break len,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    };
    // Files are taken before anything is refused, so that none stays open unknown to anybody.
    let taken = take_files(&message);
    let count = taken.len();
    files.extend(taken);
    // The kernel drops files for which the message has no room, and files for which the process has no descriptor left.
    // In the first case, as many as there is room for are here.
    let is_cut = message.msg_flags & libc::MSG_CTRUNC != 0;
    let lost_file = is_cut && count < ROOM_FOR_FILES;
    if message.msg_flags & libc::MSG_TRUNC != 0 || count > 1 || is_cut && !lost_file {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a control packet is too long, or carries more than one file",
        ));
    }
    if len == 0 {
        return Ok(None);
    }
    bytes.truncate(len);
    Ok(Some(PacketBytes { bytes, lost_file }))
}

/// A packet that is still to be received.
#[derive(Debug)]
pub struct NextPacket {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether files came with it.
    pub has_files: bool,
}

/// Looks at the next packet and leaves it, and what came with it, where it is: no file comes into this process. `None`
/// once the other side has closed the connection, or for a packet without bytes.
///
/// # Errors
/// As [`receive`]; a packet with files is no error, however many they are.
pub fn peek(socket: impl AsFd) -> io::Result<Option<NextPacket>> {
    let mut bytes = vec![0; MAX_CONTROL_MESSAGE_BYTES];
    let seen = receive_without_files(&socket, &mut bytes, &mut [], libc::MSG_PEEK)?;
    if seen.flags & libc::MSG_TRUNC != 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a control packet is too long",
        ));
    }
    bytes.truncate(seen.len);
    Ok((seen.len > 0).then_some(NextPacket {
        bytes,
        has_files: seen.flags & libc::MSG_CTRUNC != 0,
    }))
}

/// Takes away a packet that [`peek`] has shown and with which no files came: what came with it would be closed here.
///
/// # Errors
/// What the system reports.
pub fn discard(socket: impl AsFd) -> io::Result<()> {
    receive_without_files(&socket, &mut [], &mut [], 0).map(drop)
}

/// Whether a connection that was shut down, so that nothing comes in any more, still holds packets, whatever they are.
///
/// # Errors
/// What the system reports.
pub fn holds_any(socket: impl AsFd) -> io::Result<bool> {
    // A packet then shows itself by its sender, also one without bytes, which looks like the end otherwise.
    setsockopt(&socket, sockopt::PassCred, &true)?;
    let mut control = [0; SENDER_BYTES];
    match receive_without_files(&socket, &mut [], &mut control, libc::MSG_PEEK) {
        Ok(seen) => Ok(seen.control_len > 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the other side has not read all that was sent on a socket, files beside it included, and has the socket open
/// still.
///
/// # Errors
/// The system's, for what is no socket.
pub fn is_unread(socket: impl AsFd) -> io::Result<bool> {
    let mut bytes: libc::c_int = 0;
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the call writes a number to where it is told, which outlives it.
    match unsafe { libc::ioctl(socket, libc::TIOCOUTQ, &raw mut bytes) } {
        0 => Ok(bytes > 0),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Room for a packet's sender, and for no file behind it.
// SAFETY: the macro computes with its argument alone.
const SENDER_BYTES: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) } as usize;

/// What `recvmsg` says of a packet.
struct Seen {
    len: usize,
    control_len: usize,
    flags: libc::c_int,
}

/// Receives a packet, or looks at it, with no room for files.
fn receive_without_files(
    socket: &impl AsFd,
    bytes: &mut [u8],
    control: &mut [u8],
    flags: libc::c_int,
) -> io::Result<Seen> {
    let mut slice = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: a message header of zeros is valid: everything absent.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    if !control.is_empty() {
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = control.len() as _;
    }
    let socket = socket.as_fd().as_raw_fd();
    loop {
        // SAFETY: the header points to buffers of the lengths it says, which outlive the call.
        let result = unsafe { libc::recvmsg(socket, &raw mut message, flags) };
        if let Ok(len) = usize::try_from(result) {
            return Ok(Seen {
                len,
                control_len: message.msg_controllen as usize,
                flags: message.msg_flags,
            });
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Room for one file; alignment makes it two.
const CONTROL_BYTES: usize = 24;

/// Files for which there is room behind the header of their message.
const ROOM_FOR_FILES: usize = 2;

const _: () = assert!(
    CONTROL_BYTES == size_of::<libc::cmsghdr>() + ROOM_FOR_FILES * size_of::<RawFd>(),
    "the control area has room for so many files and no more"
);

#[repr(align(8))]
struct ControlArea([u8; CONTROL_BYTES]);

/// The files of a message that `recvmsg` has just filled in. nix's iterator cannot be used: it
/// gives up on a truncated message, and the files that did fit would stay open for ever.
fn take_files(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut files = Vec::new();
    // SAFETY: `recvmsg` has set the control area and its length; the macros stay within it. The
    // descriptors of a rights message are ours from now on, and nobody else takes them.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(header);
                let len = (*header).cmsg_len as usize - (data as usize - header as usize);
                for index in 0..len / size_of::<RawFd>() {
                    let file = data.cast::<RawFd>().add(index).read_unaligned();
                    files.push(OwnedFd::from_raw_fd(file));
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    files
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, shutdown, socketpair};

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
    #[test]
    fn files_that_are_looked_at_stay_where_they_are() {
        let (a, b) = pair();
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        send(&a, b"without", None).expect("sends");
        send(&a, b"with", Some(writer.as_fd())).expect("sends");
        drop(writer);
        let next = peek(&b).expect("looks").expect("a packet");
        assert_eq!((&*next.bytes, next.has_files), (&b"without"[..], false));
        discard(&b).expect("taken");
        for _ in 0..2 {
            let next = peek(&b).expect("looks").expect("a packet");
            assert_eq!((&*next.bytes, next.has_files), (&b"with"[..], true));
        }
        drop(a);
        let next = peek(&b).expect("looks");
        assert!(next.is_some(), "it is there after the end, too");
        drop(b);
        let read = std::io::Read::read(&mut reader, &mut [0]);
        assert_eq!(read.expect("nobody has the file"), 0);
    }

    #[test]
    fn what_is_left_in_a_connection_is_found_whatever_it_is() {
        let contents: [(&[u8], bool); 3] = [(b"bytes", false), (b"", false), (b"file", true)];
        for (bytes, has_file) in contents {
            let (a, b) = pair();
            let null = std::fs::File::open("/dev/null").expect("open");
            send(&a, bytes, has_file.then(|| null.as_fd())).expect("sends");
            drop(a);
            assert!(holds_any(&b).expect("looks"), "{bytes:?}");
            assert!(holds_any(&b).expect("looks"), "it stays");
        }
        let (a, b) = pair();
        drop(a);
        assert!(!holds_any(&b).expect("looks"));
    }

    #[test]
    fn what_the_other_side_has_not_read_is_known_until_it_reads_or_leaves() {
        let (a, b) = pair();
        assert!(!is_unread(&a).expect("looks"));
        send(&a, b"one", None).expect("sends");
        assert!(is_unread(&a).expect("looks"));
        shutdown(a.as_raw_fd(), Shutdown::Both).expect("shuts down");
        assert!(is_unread(&a).expect("looks"), "it can read that still");
        receive(&b).expect("receives").expect("a packet");
        assert!(!is_unread(&a).expect("looks"));
        let (a, b) = pair();
        send(&a, b"one", None).expect("sends");
        drop(b);
        assert!(!is_unread(&a).expect("looks"), "nobody will read it");
    }
}
