//! The file of a pool as a [`Disk`]: pages, read and written by system calls that block.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use chimaera_bdev_proto::UNIT_BYTES;
use chimaera_fork::Private;
use chimaera_proto::ModuleError;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::{Whence, lseek};
use zerocopy::IntoBytes;

use crate::contents::{self, DeviceContents};
use crate::{Disk, PAGE_BYTES, Page};

/// Pages that are set aside at most where space is memory: 64 MiB.
const MAX_PAGES_IN_MEMORY: u64 = 1 << 14;

/// Zeroes that are written at once, at most.
const MAX_ZEROES_WRITTEN: u64 = 1 << 20;

/// Bytes that a device is told at once to make zeroes: one that cannot do that by itself has the kernel write them.
const MAX_ZEROES_OF_DEVICE: u64 = 16 << 20;

/// A pool's file. A forked child does not have it, since it would have the file's lock with it.
pub type PoolFile = Arc<Private<File>>;

/// Keeps a file from forked children. Closing it does not keep `fork` waiting, since a file system may take any
/// time for that.
///
/// # Errors
/// No memory.
pub fn pool_file(file: File) -> Result<PoolFile, ModuleError> {
    match Private::adopt(file) {
        Ok(file) => Ok(Arc::new(file.closed_apart())),
        Err((_, error)) => Err(ModuleError::system(
            "cannot keep a file from children",
            &error,
        )),
    }
}

/// A file or device that metadata lies on.
#[derive(Clone, Debug)]
pub struct FileDisk {
    file: PoolFile,
    /// What failed last. Clones share it.
    failed: Arc<Mutex<Option<DiskOperation>>>,
}

/// What a disk was to do, and from which byte on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOperation {
    /// To read.
    Read {
        /// Offset of the page that could not be read.
        offset: u64,
    },
    /// To write.
    Write {
        /// Offset of the first page that was to be written.
        offset: u64,
    },
    /// To make durable what was written.
    Flush,
}

impl DiskOperation {
    /// The error that this was not done to a file or device.
    #[must_use]
    pub fn failed(self, path: &Path, error: &io::Error) -> ModuleError {
        let path = path.display();
        let action = match self {
            Self::Read { offset } => format!("cannot read {path} at offset {offset}"),
            Self::Write { offset } => {
                format!("cannot write the metadata of {path} at offset {offset}")
            }
            Self::Flush => format!("cannot flush {path}"),
        };
        let mut failure = ModuleError::system(action, error);
        if error.raw_os_error() == Some(libc::EIO) {
            failure.message += "; see what the kernel's log says of it";
        }
        failure
    }
}

impl FileDisk {
    /// A disk on this file. Its I/O is direct or goes through the page cache, as the file was opened.
    #[must_use]
    pub fn new(file: PoolFile) -> Self {
        Self {
            file,
            failed: Arc::default(),
        }
    }

    /// The error for people, of an operation on this disk that ended in this error, at `path`. The system's error does
    /// not say what was to be done, nor where: this is what failed last.
    #[must_use]
    pub fn explain(&self, path: &Path, error: &io::Error) -> ModuleError {
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match failed {
            Some(operation) => operation.failed(path, error),
            None => ModuleError::system(format_args!("cannot use {}", path.display()), error),
        }
    }

    /// Notes that an operation on the file failed.
    pub fn note_failed(&self, operation: DiskOperation) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        *failed = Some(operation);
    }

    /// What the file or device holds, of whose size and last bytes [`size_and_tail`] tells. Of a regular file all is
    /// read that was ever written, of a device samples; `progress` hears how many bytes were passed, and how many there
    /// are. Blocks.
    ///
    /// # Errors
    /// The device's.
    pub fn contents(
        &self,
        size_bytes: u64,
        tail: &[u8],
        progress: &mut dyn FnMut(u64, u64),
    ) -> io::Result<DeviceContents> {
        if !self.file.metadata()?.is_file() {
            return contents::probe(self, size_bytes, tail);
        }
        let mut next_data = |offset| self.next_data(offset);
        contents::probe_data(self, size_bytes, tail, &mut next_data, progress)
    }

    /// The first range of bytes of a regular file that ends behind `offset` and was ever written; `None` if all reads
    /// as zeroes from there on. Where the file system does not know, all of the file counts as written.
    ///
    /// # Errors
    /// The file system's.
    pub fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        next_data(&self.file, offset)
    }

    /// Has the file system set space aside for pages of a regular file, where it can, so that metadata never finds
    /// the file system full. On tmpfs, where space is memory, only for a few pages.
    ///
    /// # Errors
    /// The file system's: there may not be as much space.
    pub fn set_aside(&self, pages: Range<u64>) -> io::Result<()> {
        let is_in_memory =
            fstatfs(&self.file).is_ok_and(|system| system.filesystem_type() == TMPFS_MAGIC);
        let is_much = pages.end - pages.start > MAX_PAGES_IN_MEMORY;
        if (is_in_memory && is_much) || !self.file.metadata()?.is_file() {
            return Ok(());
        }
        let bytes = |pages| i64::try_from(pages * PAGE_BYTES as u64).map_err(io::Error::other);
        let (offset, len) = (bytes(pages.start)?, bytes(pages.end - pages.start)?);
        match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, len) {
            Err(nix::Error::EOPNOTSUPP | nix::Error::ENOSYS) | Ok(()) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes bytes of a file or device zeroes, of which the first one and the number are whole pages, and gives how
    /// many from the first one on: all, or a piece, on a device and where zeroes have to be written. The file stays as
    /// long as it is. Not durable before the next flush. Blocks.
    ///
    /// A file system does it without data, where it can, and keeps the space: ext4 takes some microseconds, whatever
    /// the length. A device does it as fast as it can.
    ///
    /// # Errors
    /// The device's. What the bytes are then is not known.
    pub fn zero(&self, bytes: Range<u64>) -> io::Result<u64> {
        let all = bytes.end - bytes.start;
        let most = match self.file.metadata()?.is_file() {
            true => all,
            false => all.min(MAX_ZEROES_OF_DEVICE),
        };
        let told = bytes.start..bytes.start + most;
        loop {
            match self.allocate(FallocateFlags::FALLOC_FL_ZERO_RANGE, &told) {
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EOPNOTSUPP | nix::Error::ENOSYS) => {
                    let piece = all.min(MAX_ZEROES_WRITTEN);
                    let zeroes = Page::zeroes((piece / PAGE_BYTES as u64) as usize);
                    self.write(bytes.start / PAGE_BYTES as u64, &zeroes)?;
                    return Ok(piece);
                }
                Err(errno) => return Err(errno.into()),
                Ok(()) => return Ok(most),
            }
        }
    }

    /// Gives the file system back the space of these bytes, which nobody uses, as far as it can take it.
    pub fn give_back(&self, bytes: Range<u64>) {
        let _ = self.allocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE, &bytes);
    }

    fn allocate(&self, flags: FallocateFlags, bytes: &Range<u64>) -> nix::Result<()> {
        let number = |number: u64| i64::try_from(number).map_err(|_| nix::Error::EFBIG);
        let (offset, len) = (number(bytes.start)?, number(bytes.end - bytes.start)?);
        let keeping_size = flags | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.file, keeping_size, offset, len)
    }
}

impl Disk for FileDisk {
    fn read(&self, first_page: u64, pages: &mut [Page]) -> io::Result<()> {
        let read = |page: u64, pages: &mut [Page]| {
            let offset = page * PAGE_BYTES as u64;
            let read = self.file.read_exact_at(pages.as_mut_bytes(), offset);
            read.inspect_err(|_| self.note_failed(DiskOperation::Read { offset }))
        };
        match read(first_page, pages) {
            // For one bad sector the system may fail the whole of a read: page by page, the bad one shows.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                let mut single = (first_page..).zip(pages.chunks_mut(1));
                single.try_for_each(|(page, pages)| read(page, pages))
            }
            result => result,
        }
    }

    fn write(&self, first_page: u64, pages: &[Page]) -> io::Result<()> {
        let offset = first_page * PAGE_BYTES as u64;
        let written = self.file.write_all_at(pages.as_bytes(), offset);
        written.inspect_err(|_| self.note_failed(DiskOperation::Write { offset }))
    }

    fn flush(&self) -> io::Result<()> {
        let flushed = self.file.sync_data();
        flushed.inspect_err(|_| self.note_failed(DiskOperation::Flush))
    }
}

fn next_data(file: &File, offset: u64) -> io::Result<Option<Range<u64>>> {
    let seek = |from: u64, whence| {
        let from = i64::try_from(from).map_err(io::Error::other)?;
        let found = lseek(file, from, whence)?;
        u64::try_from(found).map_err(io::Error::other)
    };
    let start = match seek(offset, Whence::SeekData) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            return Ok(Some(offset..u64::MAX));
        }
        found => found?,
    };
    Ok(Some(start..seek(start, Whence::SeekHole)?))
}

/// Bytes of the file or device, and what it has behind its last whole page.
pub fn size_and_tail(path: &Path, file: &File) -> Result<(u64, Vec<u8>), ModuleError> {
    let failed = |error: &io::Error| {
        ModuleError::system(
            format_args!("cannot find out the size of {}", path.display()),
            error,
        )
    };
    let size = size_of(file).map_err(|error| failed(&error))?;
    let tail_bytes = (size % UNIT_BYTES) as usize;
    if tail_bytes == 0 {
        return Ok((size, Vec::new()));
    }
    // Direct I/O reads whole pages. Of this one the file has `tail_bytes`.
    let mut page = [Page::ZERO];
    let offset = size - tail_bytes as u64;
    let mut read = 0;
    while read < tail_bytes {
        match file.read_at(&mut page[0].0[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            // Where direct I/O cannot read the tail, as it cannot where the page would end behind the largest offset,
            // it is taken for data, unless nothing was ever written there.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let tail = match next_data(file, offset) {
                    Ok(None) => 0,
                    Ok(Some(_)) | Err(_) => u8::MAX,
                };
                return Ok((size, vec![tail; tail_bytes]));
            }
            Err(error) => return Err(DiskOperation::Read { offset }.failed(path, &error)),
        }
    }
    Ok((size, page[0].0[..tail_bytes].to_vec()))
}

/// Bytes of a file or device now.
pub fn size_of(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() {
        let mut device = file;
        return device.seek(SeekFrom::End(0));
    }
    Ok(metadata.len())
}
