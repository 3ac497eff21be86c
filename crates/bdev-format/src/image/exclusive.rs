//! The lock that gives a pool its file exclusively.

use std::fs::TryLockError;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use chimaera_bdev_file::busy;
use chimaera_proto::ModuleError;
use chimaera_thread::flocks::flock_holder;
use chimaera_thread::standstill::{Standstill, patiently};

use super::disk::PoolFile;

/// An exclusive lock on a regular file. A block device needs none: it is opened exclusively (`O_EXCL`).
pub struct FileLock(Option<PoolFile>);

impl FileLock {
    /// Stands for the lock of a block device, which was opened exclusively.
    pub const fn of_device() -> Self {
        Self(None)
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing the file would unlock it too, but only when a child that was forked meanwhile has closed its
        // copy as well.
        if let Some(file) = &self.0 {
            let _ = file.unlock();
        }
    }
}

/// Locks a regular file that the path led to, for as long as the lock is kept.
///
/// # Errors
/// As [`lock_passed`]; [`Status::Busy`](chimaera_proto::Status::Busy) also if the path leads to another file by now.
pub fn lock(path: &Path, file: &PoolFile) -> Result<FileLock, ModuleError> {
    let lock = lock_passed(path, file)?;
    // The holder of the lock before may have removed the file, as a pool does whose creation fails. Then the path
    // leads elsewhere, and the file vanishes when it is closed.
    let same = match (std::fs::metadata(path), file.metadata()) {
        (Ok(named), Ok(opened)) => (named.dev(), named.ino()) == (opened.dev(), opened.ino()),
        _ => false,
    };
    if same {
        Ok(lock)
    } else {
        Err(busy(path, "it was replaced just now"))
    }
}

/// Locks a regular file, for as long as the lock is kept, wherever the path leads: it may be a path of another
/// process's.
///
/// # Errors
/// [`Status::Busy`](chimaera_proto::Status::Busy) if another pool or process has locked it; and the system's.
pub fn lock_passed(path: &Path, file: &PoolFile) -> Result<FileLock, ModuleError> {
    let is_locked = |error: &TryLockError| matches!(error, TryLockError::WouldBlock);
    patiently(|| file.try_lock(), is_locked).map_err(|error| match error {
        TryLockError::WouldBlock => busy(path, &who_has_locked(file)),
        TryLockError::Error(error) => {
            ModuleError::system(format_args!("cannot lock {}", path.display()), &error)
        }
    })?;
    Ok(FileLock(Some(Arc::clone(file))))
}

/// Says who has locked a file. A process that was killed keeps its locks as long as it cannot end.
fn who_has_locked(file: &PoolFile) -> String {
    let found = file.metadata().ok();
    let holder = found.and_then(|found| flock_holder(&found, None));
    match holder.filter(|&holder| holder > 0) {
        Some(own) if own.cast_unsigned() == std::process::id() => {
            "another pool has locked it".to_owned()
        }
        Some(holder) => match Standstill::of(holder) {
            Some(standstill) => format!("process {holder}, which {standstill}, has locked it"),
            None => format!("another process ({holder}) has locked it"),
        },
        None => "another pool, or another process, has locked it".to_owned(),
    }
}
