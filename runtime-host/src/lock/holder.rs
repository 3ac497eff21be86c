//! Which process holds the lock of a socket, by the kernel's word.

use std::path::Path;

use chimaera_thread::flocks::flock_holder;

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
    match flock_holder(&held, written) {
        Some(process) => Some(process),
        // The list does not have holders in other pid namespaces.
        None => is_locked(socket).then_some(0),
    }
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
}
