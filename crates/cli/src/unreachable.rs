//! Daemons that run although nobody answers at their socket. They are named, so that the operator can end them.
//!
//! The lock beside the socket names the daemon's process. Where the lock is gone too, the kernel's list of sockets is
//! searched: a listening socket keeps the name that it was given there, whatever became of its file. Such a name means
//! the same file only to processes that see the same files: a process in a container may have a socket of that name
//! elsewhere, and is passed over.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use chimaera_runtime::{lock_holder, show_process};
use chimaera_thread::standstill::is_killed;

use crate::failure::CommandFailure;

/// A daemon that nobody can reach.
enum Unreachable {
    /// The process has its socket, and accepts no connections. As below, 0 is a process in another pid namespace.
    Closed(i32),
    /// The file of the process's socket was removed.
    Removed(i32),
}

/// Replaces a failure to reach a daemon by one that names the daemon, if there is one at these sockets.
pub(crate) fn explain(failure: CommandFailure, sockets: &[PathBuf]) -> CommandFailure {
    let found = sockets
        .iter()
        .find_map(|socket| Some((socket, look(socket)?)));
    let Some((socket, unreachable)) = found else {
        return failure;
    };
    let socket = socket.display();
    CommandFailure::no_runtime(match unreachable {
        Unreachable::Closed(process) | Unreachable::Removed(process) if is_killed(process) => {
            format!(
                "the runtime {} was killed and has not ended: it does in a moment, unless the system waits for a \
                 device",
                show_process(process)
            )
        }
        Unreachable::Closed(process) => format!(
            "the runtime {} takes nobody at {socket}: it is stopping, or about to serve",
            show_process(process)
        ),
        Unreachable::Removed(process @ 0) => format!(
            "the runtime {} still runs, but its socket {socket} was removed, so that nobody can reach it: end it \
             there, where `kill` reaches the process that {socket}.lock names; then start one anew",
            show_process(process)
        ),
        Unreachable::Removed(process) => format!(
            "the runtime with process id {process} still runs, but its socket {socket} was removed, so that nobody can \
             reach it: `kill {process}` stops it in good order; then start one anew"
        ),
    })
}

/// Looks for the daemon of a socket at which nobody answers.
fn look(socket: &Path) -> Option<Unreachable> {
    if let Some(process) = lock_holder(socket) {
        return Some(match socket.exists() {
            true => Unreachable::Closed(process),
            false => Unreachable::Removed(process),
        });
    }
    let sockets = fs::read("/proc/net/unix").ok()?;
    let mut listeners = sockets
        .split(|&byte| byte == b'\n')
        .filter_map(|line| inode_of_listener(line, socket));
    listeners
        .find_map(process_with_socket)
        .map(Unreachable::Removed)
}

/// The flag of a socket that accepts connections (`__SO_ACCEPTCON`).
const LISTENS: u64 = 0x10000;

/// The type of a daemon's socket, `SOCK_SEQPACKET`.
const SEQUENCED_PACKETS: u64 = 5;

/// The inode of the socket in a line of `/proc/net/unix`, if it listens under this name.
fn inode_of_listener(line: &[u8], socket: &Path) -> Option<u64> {
    let mut rest = line;
    // Address, references, protocol, flags, type, state, inode. Some are padded. All that follows is the name.
    let mut words = [""; 7];
    for word in &mut words {
        rest = rest.trim_ascii_start();
        let (text, after) = rest.split_at(rest.iter().position(|&byte| byte == b' ')?);
        *word = std::str::from_utf8(text).ok()?;
        rest = after;
    }
    let [.., flags, kind, _, inode] = words;
    let flags = u64::from_str_radix(flags, 16).ok()?;
    let kind = u64::from_str_radix(kind, 16).ok()?;
    let is_named = rest[1..] == *socket.as_os_str().as_bytes();
    let is_listener = flags & LISTENS != 0 && kind == SEQUENCED_PACKETS && is_named;
    inode.parse().ok().filter(|_| is_listener)
}

/// The process that has this socket open, among those that this user may look into and that see the same files.
fn process_with_socket(inode: u64) -> Option<i32> {
    let socket = format!("socket:[{inode}]");
    let has_it = |process: &i32| {
        let files = fs::read_dir(format!("/proc/{process}/fd"))
            .into_iter()
            .flatten();
        let mut targets = files
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok());
        targets.any(|target| target.as_os_str() == socket.as_str())
    };
    let ours = view("self");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    processes
        .find(|process| has_it(process) && ours.is_some() && view(&process.to_string()) == ours)
}

/// Which files a process sees: its mount namespace, and its root folder.
fn view(process: &str) -> Option<(PathBuf, u64, u64)> {
    let mounts = fs::read_link(format!("/proc/{process}/ns/mnt")).ok()?;
    let root = fs::metadata(format!("/proc/{process}/root/")).ok()?;
    Some((mounts, root.dev(), root.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_known_by_its_whole_name_its_kind_and_that_it_listens() {
        let socket = Path::new("/run/a b/socket");
        let line = |flags: &str, kind: &str, name: &str| {
            format!("ffff8880: 00000002 00000000 {flags} {kind} 01   4711 {name}").into_bytes()
        };
        let named = "/run/a b/socket";
        let found = |line: Vec<u8>| inode_of_listener(&line, socket);
        assert_eq!(found(line("00010000", "0005", named)), Some(4711));
        for other in [
            line("00000000", "0005", named),
            line("00010000", "0001", named),
            line("00010000", "0005", "/run/a b/socket2"),
            line("00010000", "0005", "@/run/a b/socket"),
            b"Num       RefCount Protocol Flags    Type St Inode Path".to_vec(),
            Vec::new(),
        ] {
            assert_eq!(found(other), None);
        }
    }
}
