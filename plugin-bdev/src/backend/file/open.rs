//! Opens the file or block device behind a pool, for this pool alone.
//!
//! Laws:
//! - A pool has its file to itself, in this process and any other: a regular file carries an exclusive
//!   `flock`, a block device is opened exclusively (`O_EXCL`, as a mounted file system, a running array and
//!   another pool do too), and the file that a loop device stands on is locked. The kernel releases all of it
//!   when the process crashes. In this process a table says the same of files that were passed, whose lock others
//!   can undo ([`open_files`](super::open_files)).
//! - A creation that fails leaves things as they were: a file that it made is removed, one that it grew gets
//!   its former length again, and one that was blank is blank again. Nothing is changed before the lock is held.
//! - A file that was passed is never opened again: where its path leads is for whoever passed it to know.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use chimaera_bdev_file::{FileKind, MadeFile, OpenedPath, PathUse, refused_open};
use chimaera_bdev_format::Geometry;
use chimaera_bdev_format::contents::DeviceContents;
use chimaera_bdev_format::image::{
    FileDisk, FileLock, PoolFile, check_size_limit, lock, lock_passed, pool_file, size_and_tail,
};
use chimaera_bdev_proto::UNIT_BYTES;
use chimaera_chimod::{CreateContext, Host, Level, ModuleError};
use chimaera_proto::Status;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::beneath::lock_beneath;
use super::direct::{DirectIo, make_direct, settle_alignment, try_alignment};
use super::kernel_queries::device_is_read_only;
use super::open_files::OpenFile;
use super::source::{self, FileOrigin};
use super::undo::Undo;
use super::zoned::check_zones;
use crate::params::{DeviceUsage, Parameters};

/// A file that a pool may use.
pub(super) struct OpenedFile {
    // First, and so dropped first: whoever gets the file next finds its place free.
    pub(super) place: OpenFile,
    pub(super) file: PoolFile,
    pub(super) origin: FileOrigin,
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

/// Opens the file whose path is the pool's name, or takes the one that was passed, as `parameters` say.
pub(super) fn open(
    context: &CreateContext<'_>,
    parameters: &Parameters,
) -> Result<OpenedFile, ModuleError> {
    let (name, host) = (context.name, context.host);
    if name.is_empty() || name.contains('\0') {
        return Err(ModuleError::new(
            Status::InvalidArgument,
            format!("a file pool's name is the path of its file, and {name:?} is none"),
        ));
    }
    let path = Path::new(name);
    // The place last, and so dropped first where something fails.
    let HeldFile {
        file,
        kind,
        origin,
        made,
        lock,
        place,
    } = hold(context, path, parameters)?;
    let created = made.is_some();
    let mut undo = Undo::new(&file, path, made, host);
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
    if size_before < UNIT_BYTES && !parameters.overwrite {
        refuse_what_is_no_pool(path, &tail_before, parameters.read_only)?;
    }
    let held = held.filter(|_| kind == FileKind::Regular);
    let geometry = held.as_ref().map(|superblock| &superblock.geometry);
    let asked = size_to_ask_for(path, &file, parameters, (size_before, geometry))?;
    let total_size = settle_size(path, &file, kind, (size_before, asked), &mut undo)?;
    if direct == DirectIo::Unknown {
        try_alignment(path, &file, total_size, usage.alignment)?;
    }
    if direct == DirectIo::No {
        warn_of_page_cache(host);
    }
    Ok(OpenedFile {
        place,
        file,
        origin,
        total_size,
        usage,
        direct: direct != DirectIo::No,
        undo,
        lock,
        size_before,
        tail_before,
    })
}

/// The size that the file is to have for the pool: what was asked for, as far as a pool of this geometry, if it holds
/// one, would have it; 0 for all there is.
fn size_to_ask_for(
    path: &Path,
    file: &File,
    parameters: &Parameters,
    (size_before, geometry): (u64, Option<&Geometry>),
) -> Result<u64, ModuleError> {
    let asked = match parameters.read_only {
        true => 0,
        false => parameters.total_size,
    };
    let asked = match geometry {
        Some(geometry) => size_to_grow_to(geometry, size_before, asked),
        None => asked,
    };
    if !parameters.read_only {
        // Also where nothing is written at once: a limit that a later write met would look like a device that fails.
        let written = match asked {
            0 => size_before,
            _ if parameters.overwrite => asked.max(size_before),
            _ => asked,
        };
        check_size_limit(path, file, written)?;
    }
    Ok(asked)
}

/// A file that is this pool's alone, as it was found or made.
struct HeldFile {
    // First, and so dropped first: whoever gets the file next finds its place free.
    place: OpenFile,
    lock: FileLock,
    file: PoolFile,
    kind: FileKind,
    origin: FileOrigin,
    made: Option<MadeFile>,
}

/// Opens the file, or takes the one that was passed, and has it for this pool alone.
fn hold(
    context: &CreateContext<'_>,
    path: &Path,
    parameters: &Parameters,
) -> Result<HeldFile, ModuleError> {
    let (opened, origin) = source::open(context, path, parameters)?;
    let OpenedPath { file, kind, made } = opened;
    let file = pool_file(file)?;
    source::check_not_own(path, &file, context.host)?;
    let lock = lock_for_one_pool(path, &file, (kind, origin), parameters)?;
    let place = OpenFile::enter(path, &file)?;
    source::check_links(path, &file, (kind, origin))?;
    // Before it was locked, somebody else may have had a pool there: then it is none that was made.
    let made = made.filter(|_| file.metadata().is_ok_and(|found| found.len() == 0));
    if let Some(made) = &made
        && let Err(error) = made.sync_folder(&file)
    {
        return Err(made.remove_after(error));
    }
    Ok(HeldFile {
        place,
        lock,
        file,
        kind,
        origin,
        made,
    })
}

/// Locks the file or device, so that no other pool has it.
fn lock_for_one_pool(
    path: &Path,
    file: &PoolFile,
    (kind, origin): (FileKind, FileOrigin),
    parameters: &Parameters,
) -> Result<FileLock, ModuleError> {
    match kind {
        FileKind::Regular if origin.is_passed() => lock_passed(path, file),
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

/// Refuses a device that is read-only: the kernel opens it for writing all the same, and fails the writes.
fn check_writable(path: &Path, device: &File) -> Result<(), ModuleError> {
    match device_is_read_only(device) {
        Ok(false) => Ok(()),
        Ok(true) => {
            let error = io::Error::from_raw_os_error(libc::EROFS);
            Err(refused_open(PathUse::Write, path, &error))
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
