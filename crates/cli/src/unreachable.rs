//! Why nobody answers at a socket: a daemon that is there all the same is named, so that it can be ended.
//!
//! What is known of one is, in this order: the lock beside the socket, which names its process; and where that is
//! gone too, the kernel's list of sockets, in which a socket that listens keeps the name that it was given,
//! whatever became of the file. Such a name means the same file only to processes that see the same files: one in a
//! container of its own may have a socket of that name elsewhere, and is left alone.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use chimaera_runtime::{lock_holder, show_process};
use chimaera_shm::thread::standstill::is_killed;

use crate::failure::CommandFailure;

/// A daemon that nobody can reach.
enum Unreachable {
    /// It has its socket, and takes nobody. As for the other, 0 is a process in another pid namespace.
    Closed(i32),
    /// Its socket's file was removed.
    Removed(i32),
}

/// Says of a daemon that nobody can reach that it is there. Without one it is the failure that it was.
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
                "the runtime {} was killed and has not ended: it does in a moment, unless the system waits for a device",
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

/// Looks for the daemon that is to listen at a socket, at which nobody answers.
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

/// In the flags of a socket: it takes connections.
const LISTENS: u64 = 0x10000;

/// What a daemon's socket is, SOCK_SEQPACKET.
const SEQUENCED_PACKETS: u64 = 5;

/// The inode of the socket in a line of `/proc/net/unix`, if it listens under this name.
fn inode_of_listener(line: &[u8], socket: &Path) -> Option<u64> {
    let mut rest = line;
    // Address, references, protocol, flags, kind, state, inode. Some are padded; the name is all that follows.
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

/// The process that has this socket open, of those that this user may look into and that see the same files.
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

/// What files a process sees: its mounts, and the folder in which they begin.
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
