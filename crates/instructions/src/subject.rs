//! The process whose instructions are counted: this program, started again.
//!
//! Its standard input is one end of a socket pair. Over it the subject is told to go once it may be
//! traced, and answers with what the tracer needs to know of it. It ends when the other end closes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use chimaera_shm::packet;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;

use crate::Result;
use crate::machine::copying_functions;

/// The program's first argument when it is a subject. The second says which.
pub const ARGUMENT: &str = "subject";

/// A subject, from the tracer's side. It is killed when this is dropped, after what traces it.
pub(crate) struct Subject {
    child: Child,
    socket: OwnedFd,
}

/// What a subject said of itself.
pub(crate) struct SubjectReady {
    /// Addresses of functions whose call counts as one instruction.
    pub(crate) copying: Vec<u64>,
    /// The end of a connection to the host in it, if there is one.
    pub(crate) connection: Option<OwnedFd>,
}

impl Subject {
    /// Starts a subject, which waits to be told to go.
    pub(crate) fn start(program: &Path, role: &str) -> Result<Self> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        let child = Command::new(program)
            .args([ARGUMENT, role])
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("{} cannot be started: {error}", program.display()))?;
        Ok(Self {
            child,
            socket: ours,
        })
    }

    /// The process, which is its first thread as well.
    pub(crate) fn id(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Tells the subject to go. It may be traced from then on.
    pub(crate) fn go(&self) -> Result<SubjectReady> {
        packet::send(&self.socket, b"go", None)?;
        let answer = packet::receive(&self.socket)?.ok_or("the subject ended too early")?;
        let (addresses, _) = answer.bytes.as_chunks();
        Ok(SubjectReady {
            copying: addresses.iter().copied().map(u64::from_le_bytes).collect(),
            connection: answer.file,
        })
    }

    /// Kills it, unless it has ended by itself.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Our end of the socket pair.
    pub(crate) fn socket(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// Waits to be told to go. Gives the subject's end of the socket pair.
pub(crate) fn wait_to_go() -> Result<OwnedFd> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    packet::receive(&socket)
        .ok()
        .flatten()
        .ok_or("a subject is started by the guard, not by hand")?;
    Ok(socket)
}

/// Tells the tracer that the subject is ready.
pub(crate) fn answer(socket: &OwnedFd, connection: Option<OwnedFd>) -> Result<()> {
    let addresses = copying_functions();
    let bytes: Vec<u8> = addresses
        .iter()
        .flat_map(|address| address.to_le_bytes())
        .collect();
    Ok(packet::send(
        socket,
        &bytes,
        connection.as_ref().map(AsFd::as_fd),
    )?)
}
