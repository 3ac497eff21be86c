//! Having a file to oneself.

use std::fs::TryLockError;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use chimaera_proto::{ModuleError, Status};
use chimaera_thread::standstill::patiently;

use super::disk::PoolFile;

/// An exclusive lock on a regular file. A block device has none: it is claimed as it is opened.
pub struct FileLock(Option<PoolFile>);

impl FileLock {
    /// That of a block device, which was claimed as it was opened.
    pub const fn of_device() -> Self {
        Self(None)
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing the file would do it too, but not before a process that was forked meanwhile
        // has closed its copy.
        if let Some(file) = &self.0 {
            let _ = file.unlock();
        }
    }
}

/// Locks a regular file, for as long as the lock is kept.
///
/// # Errors
/// [`Status::Busy`] if somebody else has, or if the path leads to another file by now.
pub fn lock(path: &Path, file: &PoolFile) -> Result<FileLock, ModuleError> {
    let is_locked = |error: &TryLockError| matches!(error, TryLockError::WouldBlock);
    patiently(|| file.try_lock(), is_locked).map_err(|error| match error {
        TryLockError::WouldBlock => busy(path, "another pool, or another process, has locked it"),
        TryLockError::Error(error) => {
            ModuleError::system(format_args!("cannot lock {}", path.display()), &error)
        }
    })?;
    let lock = FileLock(Some(Arc::clone(file)));
    // Whoever held the lock before may have removed the file, as `Undo` does: then the name
    // leads elsewhere, and this pool would lie on a file that vanishes with it.
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
