//! The lock that gives a pool its file exclusively.

use std::fs::TryLockError;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use chimaera_proto::{ModuleError, Status};
use chimaera_thread::standstill::patiently;

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

/// Locks a regular file, for as long as the lock is kept.
///
/// # Errors
/// [`Status::Busy`] if another pool or process has locked it, or if the path leads to another file by now; and the
/// system's.
pub fn lock(path: &Path, file: &PoolFile) -> Result<FileLock, ModuleError> {
    let is_locked = |error: &TryLockError| matches!(error, TryLockError::WouldBlock);
    patiently(|| file.try_lock(), is_locked).map_err(|error| match error {
        TryLockError::WouldBlock => busy(path, "another pool, or another process, has locked it"),
        TryLockError::Error(error) => {
            ModuleError::system(format_args!("cannot lock {}", path.display()), &error)
        }
    })?;
    let lock = FileLock(Some(Arc::clone(file)));
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

/// The error that a file is in use, for this reason.
pub fn busy(path: &Path, cause: &str) -> ModuleError {
    ModuleError::new(
        Status::Busy,
        format!(
            "{} is in use: {cause}; use another file, or end its other use",
            path.display()
        ),
    )
}
