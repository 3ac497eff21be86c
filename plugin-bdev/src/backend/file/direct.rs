//! I/O that bypasses the page cache, and the alignment that it needs.
//!
//! An alignment that a request names is enough for the device, or refused. Where it is left open, the one
//! that the pool was made with is used, raised to what the device needs, which may be another device by now.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use chimaera_bdev_format::image::DiskOperation;
use chimaera_chimod::ModuleError;
use chimaera_proto::Status;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use super::kernel_queries::{DirectNeed, device_block_bytes, direct_need};
use crate::params::MAX_ALIGNMENT;

/// Whether a file's I/O bypasses the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DirectIo {
    /// It does, with an alignment of at least this many bytes.
    Needs(u32),
    /// It does, with an alignment that nobody knows.
    Unknown,
    No,
}

/// Makes the file's I/O bypass the page cache, if that is possible.
pub(super) fn make_direct(
    path: &Path,
    file: &File,
    is_regular: bool,
) -> Result<DirectIo, ModuleError> {
    let failed = |action: &str, errno: nix::Error| {
        let error = io::Error::from(errno);
        ModuleError::system(format_args!("cannot {action} {}", path.display()), &error)
    };
    // A file system in memory accepts the flag, and caches all the same: its pages are the file.
    let in_memory =
        is_regular && fstatfs(file).is_ok_and(|system| system.filesystem_type() == TMPFS_MAGIC);
    let need = direct_need(file);
    if in_memory || need == DirectNeed::Unsupported {
        return Ok(DirectIo::No);
    }
    let flags = fcntl(file, FcntlArg::F_GETFL).map_err(|errno| failed("ask about", errno))?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_DIRECT;
    match fcntl(file, FcntlArg::F_SETFL(flags)) {
        Ok(_) => {}
        Err(nix::Error::EINVAL) => return Ok(DirectIo::No),
        Err(errno) => return Err(failed("use direct I/O on", errno)),
    }
    let mut needed = match need {
        DirectNeed::Alignment(bytes) => Some(bytes),
        DirectNeed::Unknown | DirectNeed::Unsupported => None,
    };
    if !is_regular {
        let bytes = device_block_bytes(file)
            .map_err(|errno| failed("ask for the logical block size of", errno))?;
        needed = needed.max(Some(bytes));
    }
    Ok(needed.map_or(DirectIo::Unknown, DirectIo::Needs))
}

/// The alignment that is used: the one that was `asked` for, or else the one that the pool was `made_with`,
/// raised if the device needs more.
pub(super) fn settle_alignment(
    path: &Path,
    direct: DirectIo,
    asked: Option<u32>,
    made_with: u32,
) -> Result<u32, ModuleError> {
    let alignment = asked.unwrap_or(made_with);
    match direct {
        DirectIo::Needs(bytes) if bytes > MAX_ALIGNMENT => Err(ModuleError::new(
            Status::Alignment,
            format!(
                "{} needs an alignment of {bytes}, and a pool has at most {MAX_ALIGNMENT}: use another \
                 device, or a file system on it",
                path.display()
            ),
        )),
        DirectIo::Needs(bytes) if alignment < bytes && asked.is_some() => Err(ModuleError::new(
            Status::Alignment,
            format!(
                "alignment is {alignment}, and {} needs {bytes}: give an alignment of at least \
                 {bytes}",
                path.display()
            ),
        )),
        DirectIo::Needs(bytes) => Ok(alignment.max(bytes)),
        DirectIo::Unknown | DirectIo::No => Ok(alignment),
    }
}

/// Reads one unit at the end of the pool, which a device with larger units refuses.
pub(super) fn try_alignment(
    path: &Path,
    file: &File,
    total_size: u64,
    alignment: u32,
) -> Result<(), ModuleError> {
    #[repr(align(4096))]
    struct AlignedMemory([u8; MAX_ALIGNMENT as usize]);
    let mut memory = AlignedMemory([0; MAX_ALIGNMENT as usize]);
    let unit = &mut memory.0[..alignment as usize];
    let offset = total_size - u64::from(alignment);
    match file.read_at(unit, offset) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(ModuleError::new(
            Status::Alignment,
            format!(
                "alignment is {alignment}, and {} refuses to read {alignment} bytes: give a \
                 larger alignment, at most {MAX_ALIGNMENT}",
                path.display()
            ),
        )),
        Err(error) => Err(DiskOperation::Read { offset }.failed(path, &error)),
        Ok(_) => Ok(()),
    }
}
