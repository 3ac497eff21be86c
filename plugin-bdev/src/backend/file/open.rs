//! Opens the file or block device behind a pool, for this pool alone.
//!
//! Laws:
//! - A pool has its file to itself, in this process and any other: a regular file carries an exclusive
//!   `flock`, a block device is opened exclusively (`O_EXCL`, as a mounted file system, a running array and
//!   another pool do too), and the file that a loop device stands on is locked. The kernel releases all of it
//!   when the process crashes.
//! - A creation that fails leaves things as they were: a file that it made is removed, one that it grew gets
//!   its former length again, and one that was blank is blank again. Nothing is changed before the lock is held.
//! - Nothing but regular files and block devices is opened at all: to open a terminal or a tape has effects
//!   of its own.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use chimaera_bdev_format::Geometry;
use chimaera_bdev_format::contents::DeviceContents;
use chimaera_bdev_format::image::{
    FileDisk, FileLock, PathUse, PoolFile, busy, check_size_limit, check_stores, ends_with_slash,
    lock, pool_file, refused, size_and_tail,
};
use chimaera_bdev_proto::UNIT_BYTES;
use chimaera_chimod::{Host, Level, ModuleError};
use chimaera_proto::Status;
use chimaera_thread::standstill::patiently;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::syncfs;

use super::beneath::lock_beneath;
use super::direct::{DirectIo, make_direct, settle_alignment, try_alignment};
use super::kernel_queries::device_is_read_only;
use super::undo::Undo;
use super::zoned::check_zones;
use crate::params::{DeviceUsage, Parameters};

/// A file that a pool may use.
pub(super) struct OpenedFile {
    pub(super) file: PoolFile,
    /// Bytes that the pool manages, a multiple of [`UNIT_BYTES`].
    pub(super) total_size: u64,
    /// How the file is used: as was asked for, and where that is left open, as the pool was made.
    pub(super) usage: DeviceUsage,
    /// Whether I/O bypasses the page cache.
    pub(super) direct: bool,
    /// Undoes what was changed, unless told that the pool was made.
    pub(super) undo: Undo,
    /// To be dropped when nothing uses the file any more.
    pub(super) lock: FileLock,
    /// Bytes of the file before it was made longer; 0 if it was made.
    pub(super) size_before: u64,
    /// Those of them behind the last whole page.
    pub(super) tail_before: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileKind {
    Regular,
    BlockDevice,
}

/// Opens the file that `name` is the path of, as `parameters` say.
pub(super) fn open(
    name: &str,
    parameters: &Parameters,
    host: Host,
) -> Result<OpenedFile, ModuleError> {
    if name.is_empty() || name.contains('\0') {
        return Err(ModuleError::new(
            Status::InvalidArgument,
            format!("a file pool's name is the path of its file, and {name:?} is none"),
        ));
    }
    let path = Path::new(name);
    let (file, kind, created) = open_existing_or_new(path, parameters)?;
    let file = pool_file(file)?;
    let lock = lock_for_one_pool(path, &file, kind, parameters)?;
    let mut undo = Undo::new(&file, path, created, host);
    if created {
        sync_folder_of(path, &file)?;
    }
    let direct = make_direct(path, &file, kind == FileKind::Regular)?;
    if direct == DirectIo::No {
        // Drops what is cached: a page whose write has failed looks as if the device had it so. A hint; pages
        // that are not written yet stay.
        let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
    let held = match created || parameters.overwrite {
        true => None,
        // Where it cannot be told, opening the pool will report that.
        false => chimaera_bdev_format::identify(&FileDisk::new(Arc::clone(&file))).ok(),
    };
    let made_with = held
        .as_ref()
        .map_or_else(DeviceUsage::default, |superblock| {
            DeviceUsage::recorded(&superblock.identity)
        });
    let asked = parameters.usage;
    let usage = DeviceUsage {
        alignment: settle_alignment(path, direct, asked.alignment, made_with.alignment)?,
        ..asked.or(made_with)
    };
    let (size_before, tail_before) = size_and_tail(path, &file)?;
    let asked = if parameters.read_only {
        0
    } else {
        parameters.total_size
    };
    if size_before < UNIT_BYTES && !parameters.overwrite {
        refuse_what_is_no_pool(path, &tail_before, parameters.read_only)?;
    }
    let asked = match held.filter(|_| kind == FileKind::Regular) {
        Some(superblock) => size_to_grow_to(&superblock.geometry, size_before, asked),
        None => asked,
    };
    if !parameters.read_only {
        // Also where nothing is written at once: a limit that a later write met would look like a device that fails.
        let written = match asked {
            0 => size_before,
            _ if parameters.overwrite => asked.max(size_before),
            _ => asked,
        };
        check_size_limit(path, &file, written)?;
    }
    let total_size = settle_size(path, &file, kind, (size_before, asked), &mut undo)?;
    if direct == DirectIo::Unknown {
        try_alignment(path, &file, total_size, usage.alignment)?;
    }
    if direct == DirectIo::No {
        warn_of_page_cache(host);
    }
    Ok(OpenedFile {
        file,
        total_size,
        usage,
        direct: direct != DirectIo::No,
        undo,
        lock,
        size_before,
        tail_before,
    })
}

/// Locks the file or device, so that no other pool has it.
fn lock_for_one_pool(
    path: &Path,
    file: &PoolFile,
    kind: FileKind,
    parameters: &Parameters,
) -> Result<FileLock, ModuleError> {
    match kind {
        FileKind::Regular => lock(path, file),
        FileKind::BlockDevice => {
            check_zones(path, file)?;
            if !parameters.read_only {
                check_writable(path, file)?;
            }
            lock_beneath(path, file)
        }
    }
}

fn warn_of_page_cache(host: Host) {
    host.log(
        Level::Warning,
        format_args!(
            "its file system has no direct I/O; the pool works through the page \
             cache, so transfers may hold up other work of their worker, and flushing takes \
             longer; use a file system with direct I/O where that matters"
        ),
    );
}

/// Makes a new file's name durable: a flush of the file need not do that.
fn sync_folder_of(path: &Path, file: &File) -> Result<(), ModuleError> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let synced = File::open(folder.unwrap_or(Path::new(".")))
        .and_then(|folder| folder.sync_all())
        // For a folder that may not be read, or that its file system does not sync alone.
        .or_else(|_| syncfs(file).map_err(io::Error::from));
    synced.map_err(|error| {
        let action = format_args!("cannot make the name of {} durable", path.display());
        ModuleError::system(action, &error)
    })
}

fn open_existing_or_new(
    path: &Path,
    parameters: &Parameters,
) -> Result<(File, FileKind, bool), ModuleError> {
    let failed = |access, error: &io::Error| refused(access, path, error);
    let access = match parameters.read_only {
        true => PathUse::Read,
        false => PathUse::Write,
    };
    let kind = match std::fs::metadata(path) {
        Ok(metadata) => kind_of(path, &metadata)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A link is not followed to make a file: whoever made the link would choose where.
            let is_link = std::fs::symlink_metadata(path).is_ok();
            if parameters.read_only || is_link {
                return Err(failed(access, &error));
            }
            if ends_with_slash(path) {
                let error = io::Error::from_raw_os_error(libc::EISDIR);
                return Err(failed(PathUse::Create, &error));
            }
            if parameters.total_size == 0 {
                return Err(ModuleError::new(
                    Status::NotFound,
                    format!(
                        "{} does not exist: give a size to have it created, or create it",
                        path.display()
                    ),
                ));
            }
            // Only the owner of the daemon may reach what its clients store.
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::AlreadyExists => busy(path, "somebody made it just now"),
                    _ => failed(PathUse::Create, &error),
                })?;
            return Ok((file, FileKind::Regular, true));
        }
        Err(error) => return Err(failed(PathUse::Look, &error)),
    };
    let mut options = OpenOptions::new();
    options.read(true).write(!parameters.read_only);
    if kind == FileKind::BlockDevice {
        options.custom_flags(libc::O_EXCL);
    }
    let is_busy = |error: &io::Error| error.raw_os_error() == Some(libc::EBUSY);
    let file = patiently(|| options.open(path), is_busy).map_err(|error| {
        if is_busy(&error) {
            return busy(path, "it is mounted, part of an array, or another pool's");
        }
        failed(access, &error)
    })?;
    let metadata = file
        .metadata()
        .map_err(|error| failed(PathUse::Look, &error))?;
    // Looked at again: the first look was at the name, which may lead elsewhere by now.
    if kind_of(path, &metadata)? != kind {
        return Err(busy(path, "it was replaced just now"));
    }
    check_stores(path, &file)?;
    Ok((file, kind, false))
}

fn kind_of(path: &Path, metadata: &Metadata) -> Result<FileKind, ModuleError> {
    let file_type = metadata.file_type();
    let other = match file_type {
        _ if file_type.is_file() => return Ok(FileKind::Regular),
        _ if file_type.is_block_device() => return Ok(FileKind::BlockDevice),
        _ if file_type.is_dir() => "a directory",
        _ if file_type.is_char_device() => "a character device",
        _ if file_type.is_fifo() => "a FIFO",
        _ if file_type.is_socket() => "a socket",
        _ => "something else",
    };
    Err(ModuleError::new(
        Status::InvalidArgument,
        format!(
            "{} is {other}: a file pool needs a regular file or a block device",
            path.display()
        ),
    ))
}

/// Refuses a device that is read-only: the kernel opens it for writing all the same, and fails the writes.
fn check_writable(path: &Path, device: &File) -> Result<(), ModuleError> {
    match device_is_read_only(device) {
        Ok(false) => Ok(()),
        Ok(true) => {
            let error = io::Error::from_raw_os_error(libc::EROFS);
            Err(refused(PathUse::Write, path, &error))
        }
        Err(errno) => Err(ModuleError::system(
            format_args!("cannot ask whether {} is read-only", path.display()),
            &errno.into(),
        )),
    }
}

/// Refuses a file of less than a page, which holds `bytes`, if they are not all zero or the file is only to be read:
/// the error should name what it holds, not its size.
fn refuse_what_is_no_pool(path: &Path, bytes: &[u8], read_only: bool) -> Result<(), ModuleError> {
    let first_nonzero = bytes.iter().position(|&byte| byte != 0);
    let contents = first_nonzero.map_or(DeviceContents::Blank, |at| DeviceContents::Unknown {
        first_nonzero_offset: at as u64,
    });
    match contents {
        _ if read_only => Err(nothing_to_read(&path.display(), contents)),
        DeviceContents::Blank => Ok(()),
        _ => Err(not_blank(&path.display(), contents)),
    }
}

/// The error for a file or device that is to be opened for reading only, and holds no pool.
pub(crate) fn nothing_to_read(name: &dyn Display, contents: DeviceContents) -> ModuleError {
    let status = match contents {
        DeviceContents::Blank => Status::NotFound,
        DeviceContents::Known(_) | DeviceContents::Unknown { .. } => Status::NotBlank,
    };
    ModuleError::new(
        status,
        format!(
            "{name}: it holds {contents}, and no pool that could be opened for reading: name the file or device that \
             has the pool"
        ),
    )
}

/// The error for a file or device that holds something else than a pool.
pub(crate) fn not_blank(name: &dyn Display, contents: DeviceContents) -> ModuleError {
    ModuleError::new(
        Status::NotBlank,
        format!(
            "{name}: it holds {contents}, and no pool: use another file or device, or set overwrite to lose what it \
             holds"
        ),
    )
}

/// Settles how much the pool manages, and makes the file that long.
fn settle_size(
    path: &Path,
    file: &File,
    kind: FileKind,
    (is, asked): (u64, u64),
    undo: &mut Undo,
) -> Result<u64, ModuleError> {
    if asked == 0 {
        let total_size = is - is % UNIT_BYTES;
        if total_size == 0 {
            return Err(ModuleError::new(
                Status::InvalidArgument,
                format!(
                    "{} has {is} bytes, and a pool needs {}: {}",
                    path.display(),
                    Geometry::min_pool_bytes(),
                    match kind {
                        FileKind::Regular =>
                            "give a size of at least that, to which the file grows",
                        FileKind::BlockDevice => "use a larger device",
                    }
                ),
            ));
        }
        return Ok(total_size);
    }
    if asked > is {
        if kind == FileKind::BlockDevice {
            return Err(ModuleError::new(
                Status::InvalidArgument,
                format!(
                    "size is {asked} bytes, and the device {} has {is}: give at most that, \
                     or 0 for all of it",
                    path.display()
                ),
            ));
        }
        undo.will_grow_from(is);
        file.set_len(asked)
            .map_err(|error| cannot_grow(path, (is, asked), &error))?;
    }
    Ok(asked)
}

/// The size to which to bring a file that holds a pool: what was asked for, unless the pool would have none of that.
/// Then it is no more than the pool has, so that the file does not become longer for nothing.
fn size_to_grow_to(geometry: &Geometry, is: u64, asked: u64) -> u64 {
    let pages = geometry.total_pages();
    let would_grow = geometry.grown(asked / UNIT_BYTES).total_pages() > pages;
    match asked > is.max(pages * UNIT_BYTES) && !would_grow {
        true => (is - is % UNIT_BYTES).max(pages * UNIT_BYTES),
        false => asked,
    }
}

/// The error for a file that cannot be made longer. If it would be too long, the error asks for a smaller
/// size.
fn cannot_grow(path: &Path, (is, asked): (u64, u64), error: &io::Error) -> ModuleError {
    let action = format!("cannot grow {} from {is} to {asked} bytes", path.display());
    match error.raw_os_error() {
        // More than the system can express.
        None => ModuleError::new(
            Status::InvalidArgument,
            format!("{action}, which is more than any file can have: give a smaller size"),
        ),
        Some(libc::EFBIG) => {
            let mut error = ModuleError::system(action, error);
            error.message.push_str(
                ": give a smaller size, or use a file system that has files so large, and no `ulimit -f` in the way",
            );
            error
        }
        Some(_) => ModuleError::system(action, error),
    }
}
