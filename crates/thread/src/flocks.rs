//! Which process holds the lock of a whole file (`flock`), by the kernel's list.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use nix::sys::stat::{major, minor};

/// The process that holds an exclusive lock of a file, by its number in this process's pid namespace. `None` if there
/// is none, or if the list does not show it: one in another pid namespace, or where `/proc` is mounted for another one.
///
/// `likely` is a process that is believed to hold it: on file systems of many volumes the list has another device than
/// the file's own, and only tells it by the inode.
#[must_use]
pub fn flock_holder(file: &Metadata, likely: Option<i32>) -> Option<i32> {
    let device = (major(file.dev()), minor(file.dev()));
    let held = listed_locks().into_iter().find(|lock| {
        lock.inode == file.ino() && (lock.device == device || Some(lock.process) == likely)
    });
    held.map(|lock| lock.process)
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
/// lock, which shares it for a moment, and for one that waits, whose line has an arrow.
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
    use super::*;

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
