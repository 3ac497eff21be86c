//! Which process holds the lock of a socket, by the kernel's word.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::{major, minor};

use super::{LockFile, is_locked};

/// The process that holds the lock of a socket at which nobody answers: a runtime whose socket was removed.
/// 0 if this process's pid namespace does not have it. `None` if there is none, or it cannot be known.
///
/// The number in the file may be old, and is that of the holder's own pid namespace. The kernel lists the holders of
/// locks by the numbers that they have here.
#[must_use]
pub fn lock_holder(socket: &Path) -> Option<i32> {
    let file = LockFile::of(socket)?;
    let held = file.file.metadata().ok()?;
    let written = file.lines().and_then(|(process, _)| process.parse().ok());
    let listed = listed_locks().into_iter().find(|lock| {
        // On file systems of many volumes the kernel's list has another device than the file's own.
        lock.inode == held.ino()
            && (lock.device == (major(held.dev()), minor(held.dev()))
                || Some(lock.process) == written)
    });
    match listed {
        Some(lock) => Some(lock.process),
        // The list does not have holders in other pid namespaces.
        None => is_locked(socket).then_some(0),
    }
}

/// An exclusive lock of a whole file, in the kernel's list.
#[derive(Debug, PartialEq, Eq)]
struct ListedLock {
    /// The process, by its number in this process's pid namespace.
    process: i32,
    device: (u64, u64),
    inode: u64,
}

/// The kernel's list of locks. Empty if `/proc` is mounted for another pid namespace, whose numbers mean nothing here.
fn listed_locks() -> Vec<ListedLock> {
    let own = std::fs::read_link("/proc/self").ok();
    if own.is_none_or(|own| own.as_os_str() != std::process::id().to_string().as_str()) {
        return Vec::new();
    }
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    locks.lines().filter_map(listed_lock).collect()
}

/// Reads a line such as `1: FLOCK  ADVISORY  WRITE 4711 fe:01:1234 0 EOF`. `None` for a process that only looks at a
/// lock, which shares it for a moment ([`is_locked`]), and for one that waits, whose line has an arrow.
fn listed_lock(line: &str) -> Option<ListedLock> {
    let words: Vec<_> = line.split_whitespace().collect();
    let &[_, "FLOCK", _, "WRITE", process, file, ..] = words.as_slice() else {
        return None;
    };
    let [major, minor, inode] = file.split(':').collect::<Vec<_>>().try_into().ok()?;
    let hexadecimal = |digits| u64::from_str_radix(digits, 16).ok();
    Some(ListedLock {
        process: process.parse().ok()?,
        device: (hexadecimal(major)?, hexadecimal(minor)?),
        inode: inode.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::super::SocketLock;
    use super::*;

    #[test]
    fn a_holder_is_named_whatever_number_its_file_has() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("socket");
        let mut lock = SocketLock::take(&socket).expect("nobody has it");
        let own = Some(std::process::id().cast_signed());
        // As left by a daemon that is the first process of a container.
        lock.file.set_len(0).expect("it is regular");
        lock.file.rewind().expect("it is regular");
        writeln!(lock.file, "1").expect("there is room");
        assert_eq!(lock_holder(&socket), own);
        lock.file.set_len(0).expect("it is regular");
        assert_eq!(lock_holder(&socket), own);
        drop(lock);
        assert_eq!(lock_holder(&socket), None);
    }

    #[test]
    fn a_line_of_the_kernels_list_is_a_lock_if_it_is_held_for_its_holder_alone() {
        let held = listed_lock("12: FLOCK  ADVISORY  WRITE 4711 fe:01:1234 0 EOF");
        let expected = ListedLock {
            process: 4711,
            device: (0xfe, 1),
            inode: 1234,
        };
        assert_eq!(held, Some(expected));
        for other in [
            "12: FLOCK  ADVISORY  READ  4711 fe:01:1234 0 EOF",
            "12: -> FLOCK  ADVISORY  WRITE 4711 fe:01:1234 0 EOF",
            "12: POSIX  ADVISORY  WRITE 4711 fe:01:1234 0 EOF",
            "12: FLOCK  ADVISORY  WRITE 4711 <none>:0 0 EOF",
            "",
        ] {
            assert_eq!(listed_lock(other), None, "{other}");
        }
    }
}
