//! Whether a file or device can be written at all, asked before anything is written: a write that is refused in the
//! middle of a change would leave a part of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use chimaera_proto::ModuleError;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{major, minor};
use nix::sys::statvfs::{FsFlags, fstatvfs};

/// Refuses to use so many bytes of a regular file for writing where this process may not write all of them
/// (`RLIMIT_FSIZE`). Devices have no such limit.
///
/// # Errors
/// [`Status::NoSpace`](chimaera_proto::Status::NoSpace), with the limit.
pub fn check_size_limit(path: &Path, file: &File, bytes: u64) -> Result<(), ModuleError> {
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    let limit = getrlimit(Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(soft, _)| soft);
    if !is_file || bytes <= limit {
        return Ok(());
    }
    let action = format_args!("cannot write all of {}, {bytes} bytes", path.display());
    let mut error = ModuleError::system(action, &io::Error::from_raw_os_error(libc::EFBIG));
    error.message += &format!(
        ": the process that writes it may write the first {limit} bytes of a file; raise that limit (`ulimit -f`) \
         where the process is started, or give a smaller size"
    );
    Err(error)
}

/// Whether an open file or device can be read only, by whomever: the device is set so, or the file system is mounted
/// so. `false` also where the system does not say. Does not block for the device.
#[must_use]
pub fn is_read_only(file: &File) -> bool {
    let Ok(metadata) = file.metadata() else {
        return false;
    };
    if !metadata.file_type().is_block_device() {
        return fstatvfs(file).is_ok_and(|system| system.flags().contains(FsFlags::ST_RDONLY));
    }
    // The kernel opens such a device for writing all the same, and fails the writes.
    let (major, minor) = (major(metadata.rdev()), minor(metadata.rdev()));
    let said = std::fs::read(format!("/sys/dev/block/{major}:{minor}/ro"));
    said.is_ok_and(|said| said.trim_ascii() == b"1")
}

/// The error that a change needs what can only be read.
pub(super) fn read_only_error(path: &Path) -> ModuleError {
    let action = format_args!("cannot change what {} holds", path.display());
    let mut error = ModuleError::system(action, &io::Error::from_raw_os_error(libc::EROFS));
    error.message += ": the device, or the file system, can only be read, and nothing was written; make it writable \
                      (`blockdev --setrw` for a device, `mount -o remount,rw` for a file system), or copy it to \
                      another place and change the copy";
    error
}
