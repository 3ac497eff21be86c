//! The file of a pool, as its metadata sees it: pages, by plain system calls of a thread that may block.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use zerocopy::IntoBytes;

use super::PoolFile;
use crate::metadata::{Disk, PAGE_BYTES, Page};

/// Pages that are set aside in memory at most: 64 MiB.
const MAX_PAGES_IN_MEMORY: u64 = 1 << 14;

/// A file or device that metadata lies on.
#[derive(Clone, Debug)]
pub(crate) struct FileDisk(PoolFile);

impl FileDisk {
    pub(crate) fn new(file: PoolFile) -> Self {
        Self(file)
    }

    /// Has the file system set space aside for pages of a regular file, where it can: so that metadata
    /// never finds the file system full. On tmpfs, where space is memory, not for very much.
    ///
    /// # Errors
    /// That there is not as much space.
    pub(crate) fn set_aside(&self, pages: Range<u64>) -> io::Result<()> {
        let is_in_memory =
            fstatfs(&self.0).is_ok_and(|system| system.filesystem_type() == TMPFS_MAGIC);
        let is_much = pages.end - pages.start > MAX_PAGES_IN_MEMORY;
        if (is_in_memory && is_much) || !self.0.metadata()?.is_file() {
            return Ok(());
        }
        let bytes = |pages| i64::try_from(pages * PAGE_BYTES as u64).map_err(io::Error::other);
        let (offset, len) = (bytes(pages.start)?, bytes(pages.end - pages.start)?);
        match fallocate(&self.0, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, len) {
            Err(nix::Error::EOPNOTSUPP | nix::Error::ENOSYS) | Ok(()) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Disk for FileDisk {
    fn read(&self, first_page: u64, pages: &mut [Page]) -> io::Result<()> {
        let offset = first_page * PAGE_BYTES as u64;
        self.0.read_exact_at(pages.as_mut_bytes(), offset)
    }

    fn write(&self, first_page: u64, pages: &[Page]) -> io::Result<()> {
        let offset = first_page * PAGE_BYTES as u64;
        self.0.write_all_at(pages.as_bytes(), offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
