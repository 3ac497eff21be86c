//! Opening what is at a path, or making a file there.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use chimaera_proto::{ModuleError, Status};
use chimaera_thread::standstill::patiently;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::busy;
use crate::made::{MadeFile, absent};
use crate::path::{PathUse, check_stores, ends_with_slash};
use crate::reach::Reach;

/// What kind of file a pool has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A block device.
    BlockDevice,
}

/// How a path is to be opened.
#[derive(Clone, Copy, Debug)]
pub struct HowToOpen {
    /// For reading only. Nothing is made then.
    pub read_only: bool,
    /// Whether a file is made where nothing is.
    pub makes: bool,
}

/// What was opened.
#[derive(Debug)]
pub struct OpenedPath {
    /// The file, not direct yet.
    pub file: File,
    /// What it is.
    pub kind: FileKind,
    /// If it was made: how to remove it.
    pub made: Option<MadeFile>,
}

/// Opens the regular file or block device that a path leads to: a block device for this opening alone (`O_EXCL`, as a
/// mounted file system, a running array and a pool have it). Waits up to two seconds for one that is in use. A new file
/// is for its user alone (0600), and empty.
///
/// # Errors
/// What is there is something else or in use, or the system refuses it; then nothing was made.
pub fn open(path: &Path, reach: &Reach<'_>, how: HowToOpen) -> Result<OpenedPath, ModuleError> {
    let failed = |access, error: &io::Error| reach.refused(access, path, error);
    let look = |flags| reach.open(path, flags | OFlag::O_PATH).map(File::from);
    let found = match look(OFlag::empty()) {
        Err(Errno::ENOENT) => {
            let error = Errno::ENOENT.into();
            let is_link = look(OFlag::O_NOFOLLOW).is_ok();
            if how.read_only || is_link {
                let access = match how.read_only {
                    true => PathUse::Read,
                    false => PathUse::Write,
                };
                return Err(failed(access, &error));
            }
            if ends_with_slash(path) {
                return Err(failed(PathUse::Create, &Errno::EISDIR.into()));
            }
            if !how.makes {
                return Err(absent(path));
            }
            let (file, made) = MadeFile::make(path, reach)?;
            return Ok(OpenedPath {
                file,
                kind: FileKind::Regular,
                made: Some(made),
            });
        }
        found => found.map_err(|errno| failed(PathUse::Look, &errno.into()))?,
    };
    let look_failed = |error: io::Error| failed(PathUse::Look, &error);
    let kind = kind_of(path, &found.metadata().map_err(look_failed)?)?;
    let file = open_existing(path, reach, how, kind)?;
    // Looked at again: the first look was at the name, which may lead elsewhere by now.
    if kind_of(path, &file.metadata().map_err(look_failed)?)? != kind {
        return Err(busy(path, "it was replaced just now"));
    }
    check_stores(path, &file)?;
    Ok(OpenedPath {
        file,
        kind,
        made: None,
    })
}

fn open_existing(
    path: &Path,
    reach: &Reach<'_>,
    how: HowToOpen,
    kind: FileKind,
) -> Result<File, ModuleError> {
    let (access, mode) = match how.read_only {
        true => (PathUse::Read, OFlag::O_RDONLY),
        false => (PathUse::Write, OFlag::O_RDWR),
    };
    let exclusive = match kind {
        FileKind::Regular => OFlag::empty(),
        FileKind::BlockDevice => OFlag::O_EXCL,
    };
    // To open what may have come into its place has no effect, and does not wait.
    let flags = mode | exclusive | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let is_busy = |errno: &Errno| *errno == Errno::EBUSY;
    let file = patiently(|| reach.open(path, flags), is_busy).map_err(|errno| match errno {
        Errno::EBUSY => busy(path, "it is mounted, part of an array, or another pool's"),
        errno => reach.refused(access, path, &errno.into()),
    })?;
    // Some kernels take it as the wish that no I/O wait.
    let flags = fcntl(&file, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
    let cleared = flags.and_then(|flags| {
        let waits = FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK);
        fcntl(&file, waits)
    });
    cleared.map_err(|errno| reach.refused(access, path, &errno.into()))?;
    Ok(file.into())
}

/// What kind of file this is.
///
/// # Errors
/// None that a pool can have.
pub fn kind_of(path: &Path, metadata: &Metadata) -> Result<FileKind, ModuleError> {
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
