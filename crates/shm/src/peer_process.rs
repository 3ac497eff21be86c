//! The process at the other end of a connection: how to learn of its end, and of which groups it is.
//!
//! A socket alone does not tell. A child that was forked without any handler (`clone(2)`) holds a copy of it, and
//! the kernel reports a hangup only when the last copy is closed; and a process that has closed its sockets has not
//! ended yet. The host watches the process that made the connection, a client the one that listened for it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt::PeerPidfd};

/// A file that becomes readable when the process at the other end of the socket has ended with all of its threads and
/// files, in whatever way. `process_id` is that process by the kernel's word (`SO_PEERCRED`), 0 if this process's pid
/// namespace does not have it. `None` for this process itself, and where there is no such file: before Linux 5.3, in a
/// sandbox that forbids it, and, before Linux 6.5, for a process in another pid namespace.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] if the process has ended already and the system has no such file any more; else what the
/// system refuses, most likely for lack of descriptors.
pub fn watch(socket: impl AsFd, process_id: i32) -> io::Result<Option<OwnedFd>> {
    if process_id.cast_unsigned() == std::process::id() {
        return Ok(None);
    }
    let opened = match getsockopt(&socket, PeerPidfd) {
        Err(Errno::ENOPROTOOPT | Errno::EINVAL) if process_id == 0 => return Ok(None),
        // Before Linux 6.5. The id may be another process's by now, if the peer ended before this call and ids have
        // wrapped since. No client loses anything by that: its process is gone, and its connection ends with the last
        // copy of its socket or with that other process, whichever is first. Whoever waits for a daemon's end waits too
        // long then. This cannot be detected here, since the kernel tells nothing of the peer but the number.
        Err(Errno::ENOPROTOOPT | Errno::EINVAL) => open_process(process_id),
        opened => opened,
    };
    match opened {
        Ok(process) => Ok(Some(process)),
        Err(Errno::ESRCH) => Err(io::ErrorKind::NotFound.into()),
        // Before Linux 5.3, or in a sandbox.
        Err(Errno::ENOSYS | Errno::EPERM) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn open_process(process_id: i32) -> nix::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of this process.
    let file = unsafe { libc::syscall(libc::SYS_pidfd_open, process_id, 0) };
    let file = Errno::result(file)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(file as i32) })
}

/// The further groups of the process that made the connection, as they were then, by the kernel's word
/// (`SO_PEERGROUPS`). Empty where the kernel does not tell (before Linux 4.13).
///
/// # Errors
/// What the system refuses.
pub fn groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut len_bytes = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: the kernel writes at most `len_bytes` bytes, all of which are the vector's, and says how many it has
        // or would have written.
        let asked = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len_bytes,
            )
        };
        let count = len_bytes as usize / size_of::<u32>();
        match Errno::result(asked) {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            Err(Errno::ERANGE) if count > groups.len() => groups.resize(count, 0),
            Err(Errno::ENOPROTOOPT | Errno::ENODATA) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The number is the same on all of the processors that are supported (x86-64, AArch64); libc does not have it for
/// each.
const SO_PEERGROUPS: libc::c_int = 59;

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    #[test]
    fn the_own_process_is_not_watched() {
        let kind = SockType::SeqPacket;
        let pair = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC);
        let (ours, _theirs) = pair.expect("a pair");
        let watched = watch(&ours, std::process::id().cast_signed()).expect("asked");
        assert!(watched.is_none());
    }

    #[test]
    fn the_groups_of_a_peer_are_those_that_it_had() {
        let kind = SockType::SeqPacket;
        let pair = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC);
        let (ours, _theirs) = pair.expect("a pair");
        let own = nix::unistd::getgroups().expect("they are known");
        let mut own: Vec<_> = own.into_iter().map(nix::unistd::Gid::as_raw).collect();
        let mut told = groups(&ours).expect("told");
        own.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, own);
    }

    /// Kernels that do not give the peer's process file by its socket use this instead.
    #[test]
    fn a_process_is_readable_once_it_has_ended() {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().expect("a process");
        let process = open_process(child.id().cast_signed()).expect("it runs");
        let is_readable = |timeout| {
            let mut files = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            poll(&mut files, timeout) == Ok(1)
        };
        assert!(!is_readable(PollTimeout::ZERO));
        drop(child.stdin.take());
        assert!(is_readable(PollTimeout::from(60_000_u16)), "it ended");
        child.wait().expect("it was started");
    }
}
