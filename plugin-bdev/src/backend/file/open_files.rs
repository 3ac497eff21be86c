//! Which files and devices are open, of the pools of this process: each is one pool's.
//!
//! The lock of a file that was passed belongs to whoever else has it open too, who may give it up, and a device that
//! was passed need not have been opened exclusively. So the kernel alone does not keep two pools of this process apart.
//! As the table of UUIDs, this one is a static of this library.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use chimaera_bdev_file::{PathUse, busy, refused_open};
use chimaera_bdev_format::image::PoolFile;
use chimaera_chimod::ModuleError;
use chimaera_fork::PerProcess;
use parking_lot::Mutex;

/// A forked child has none of its parent's pools.
static OPEN: PerProcess<Mutex<BTreeSet<FileKey>>> = PerProcess::new(Mutex::default);

/// Identifies a file by its device and inode, or a block device by its number, whatever node it is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum FileKey {
    File(u64, u64),
    Device(u64),
}

/// The place of an open file in the table. To be dropped before the file is unlocked or closed.
#[derive(Debug)]
pub(super) struct OpenFile(FileKey);

impl OpenFile {
    /// Enters a file. Waits for no pool.
    ///
    /// # Errors
    /// [`Status::Busy`](chimaera_proto::Status::Busy) if a pool of this process has it.
    pub(super) fn enter(path: &Path, file: &PoolFile) -> Result<Self, ModuleError> {
        let found = file.metadata();
        let found = found.map_err(|error| refused_open(PathUse::Look, path, &error))?;
        let key = match found.file_type().is_block_device() {
            true => FileKey::Device(found.rdev()),
            false => FileKey::File(found.dev(), found.ino()),
        };
        match OPEN.get().lock().insert(key) {
            true => Ok(Self(key)),
            false => Err(busy(path, "another pool has it")),
        }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        OPEN.get().lock().remove(&self.0);
    }
}
