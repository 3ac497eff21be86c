//! What tests ask of the module.

/// Name of the module; its library is `libchimaera_escaping_runtime.so`.
pub const MODULE_NAME: &str = "chimaera_escaping";

/// The module's one method tries what its first argument says: on the worker, or if the second is not zero on a thread
/// of its own. `values[0]`: the error's number, 0 if nothing prevented it.
pub const TRY: u16 = 0;

/// What is tried. The creation parameters are four lines: a file that the daemon has no business with, a TCP port of
/// this machine, a Unix socket, and a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum EscapeAttempt {
    /// Reads the file.
    Read,
    /// Opens the file for writing.
    Write,
    /// Cuts the file off.
    Truncate,
    /// Removes the file.
    Remove,
    /// Makes another file beside it.
    Make,
    /// Gives the file to all users.
    ChangeMode,
    /// Gives the file to another user.
    ChangeOwner,
    /// Connects to the port.
    ConnectTcp,
    /// Listens at another port.
    Listen,
    /// Connects to the Unix socket.
    ConnectUnix,
    /// Sends a datagram to the Unix socket.
    Datagram,
    /// Executes a program.
    Execute,
    /// Makes a process.
    Fork,
    /// Sends the process the signal that does nothing.
    Signal,
    /// Traces the process.
    Trace,
    /// Reads the environment of the process.
    Environment,
    /// Becomes another user.
    ChangeUser,
    /// Mounts a file system over the file's folder.
    Mount,
    /// Makes a namespace.
    Unshare,
    /// Makes a ring.
    MakeRing,
    /// Reads the file through a ring.
    ReadByRing,
    /// Connects to the port through a ring.
    ConnectByRing,
    /// Makes a socket through a ring.
    SocketByRing,
}

impl EscapeAttempt {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Read,
        Self::Write,
        Self::Truncate,
        Self::Remove,
        Self::Make,
        Self::ChangeMode,
        Self::ChangeOwner,
        Self::ConnectTcp,
        Self::Listen,
        Self::ConnectUnix,
        Self::Datagram,
        Self::Execute,
        Self::Fork,
        Self::Signal,
        Self::Trace,
        Self::Environment,
        Self::ChangeUser,
        Self::Mount,
        Self::Unshare,
        Self::MakeRing,
        Self::ReadByRing,
        Self::ConnectByRing,
        Self::SocketByRing,
    ];
}
