//! The receiver: a process that receives what clients send beside their messages, so that the host never has a file in
//! its table that somebody can make hang.
//!
//! Closing a file can take as long as its owner likes: a socket that lingers, a file that a user's own program serves.
//! So can looking at it, and the kernel closes files itself: those for which a message has no room, and those that a
//! closed socket still held. A process with such a file hangs in the kernel, sometimes beyond SIGKILL. Therefore only
//! processes that nobody waits for come near such files:
//!
//! - The **host** looks whether files came with a message, without receiving it, and hands the connection's socket on.
//! - A **child** of the receiver receives the message, judges its file ([`verdict`]), passes a harmless one on to the
//!   host, and ends. One request is one child ([`child`]).
//! - The **receiver** forks the children and kills those that hang ([`supervisor`]). It has no file but its own.
//!
//! Who hangs, and for whom, is counted by the host's control thread.
//!
//! Laws of this module:
//! - The host waits neither for the receiver nor for a child. All that it does here is to send and receive packets
//!   without blocking.
//! - A socket that may hold files is closed last by a process that ends. The kernel does not let sockets linger then.
//! - Receiver and children call nothing but the kernel: the host may have had threads when it was forked.
//! - The receiver ends with the host, however that ends.

mod child;
mod messages;
mod mounts;
mod supervisor;
mod verdict;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use chimaera_fork::Private;
use chimaera_shm::packet;
use chimaera_thread::NoThread;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, shutdown, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, gettid};

use messages::{ChildAnswer, ChildRequest};
pub(crate) use messages::{ChildTask, Found, Note};
pub(crate) use supervisor::CHILD_PATIENCE;
use supervisor::Ends;

/// How often, and after what time each, a host that ends looks whether its receiver has ended.
const MAX_LOOKS: usize = 100;
const LOOK: Duration = Duration::from_millis(1);

/// The host's side of its receiver. When this is dropped, the receiver ends.
#[derive(Debug)]
pub(crate) struct Receiver {
    process: Pid,
    requests: Private<OwnedFd>,
    notes: Private<OwnedFd>,
}

/// A child's answer to a request.
#[derive(Debug)]
pub(crate) struct ReceivedFile {
    pub(crate) request: u64,
    pub(crate) found: Found,
    /// The file, if it is harmless. It is missing all the same where the host had no descriptor for it.
    pub(crate) file: Option<OwnedFd>,
}

impl Receiver {
    /// Starts a receiver that takes files of these types of file systems for harmless, besides those of local ones.
    ///
    /// # Errors
    /// The system gives no process or descriptor.
    pub(crate) fn start(trusted: &[String]) -> io::Result<Self> {
        let (requests, their_requests) = pair()?;
        let (notes, their_notes) = pair()?;
        for own in [&requests, &notes] {
            fcntl(&**own, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        let ends = Ends {
            requests: their_requests.as_raw_fd(),
            notes: their_notes.as_raw_fd(),
            parent: (gettid() == getpid()).then(|| getpid().as_raw()),
        };
        // Its end raises no signal here, and an application that waits for its children does not find it.
        match supervisor::fork(0) {
            Ok(0) => supervisor::run(&ends, trusted),
            Ok(process) => Ok(Self {
                process: Pid::from_raw(process),
                requests,
                notes,
            }),
            Err(error) => Err(NoThread::new("chimaera-recv", error.into()).into()),
        }
    }

    /// Asks for this, with a copy of a connection's socket.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if no more can be asked for the moment; else what the system says: most likely
    /// that the receiver is gone.
    pub(crate) fn ask(&self, request: u64, task: ChildTask, socket: &OwnedFd) -> io::Result<()> {
        let request = ChildRequest {
            number: request,
            task,
        };
        packet::send(&*self.requests, &request.to_bytes(), Some(socket.as_fd()))
    }

    /// The next answer that has come in.
    pub(crate) fn answer(&self) -> Option<ReceivedFile> {
        loop {
            let packet = packet::receive(&*self.requests).ok()??;
            if let Some(ChildAnswer { number, found }) = ChildAnswer::from_bytes(&packet.bytes) {
                return Some(ReceivedFile {
                    request: number,
                    found,
                    file: packet.file,
                });
            }
        }
    }

    /// What the receiver itself has said next.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if it has said nothing more; else it is gone.
    pub(crate) fn note(&self) -> io::Result<Note> {
        let packet = packet::receive(&*self.notes)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Note::from_bytes(&packet.bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Has the child killed that holds the socket of this request.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) fn end_child(&self, request: u64) -> io::Result<()> {
        packet::send(&*self.notes, &request.to_ne_bytes(), None)
    }

    /// What becomes readable when there are answers, or notes.
    pub(crate) fn files(&self) -> [&Private<OwnedFd>; 2] {
        [&self.requests, &self.notes]
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // The receiver and the child that waits learn of it at once, whoever else has copies.
        for own in self.files() {
            let _ = shutdown(own.as_raw_fd(), Shutdown::Both);
        }
        // One that was stopped is left as it is: nobody waits for it long.
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
        for _ in 0..MAX_LOOKS {
            if waitpid(self.process, Some(flags)) != Ok(WaitStatus::StillAlive) {
                break;
            }
            std::thread::sleep(LOOK);
        }
    }
}

fn pair() -> io::Result<(Private<OwnedFd>, Private<OwnedFd>)> {
    let mut theirs = None;
    let ours = Private::new(|| {
        let kind = SockType::SeqPacket;
        let (ours, other) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
        theirs = Some(other);
        Ok(ours)
    })?;
    let theirs = theirs.expect("both were made");
    let theirs = Private::adopt(theirs).map_err(|(_, error)| error)?;
    Ok((ours, theirs))
}
