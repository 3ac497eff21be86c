//! Opening what is at a path, or making a file there.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use chimaera_proto::{ModuleError, Status};
use chimaera_thread::standstill::patiently;
use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::busy;
use crate::made::{MadeFile, absent};
use crate::node::open_node;
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
    // Before it is opened, which may have effects of its own; and for what it is opened for.
    check_stores(path, &found)?;
    let file = open_found(&found, (path, reach), how, kind)?;
    check_stores(path, &file)?;
    Ok(OpenedPath {
        file,
        kind,
        made: None,
    })
}

/// Opens what was only looked at, whatever has come into its place at the path by now.
pub(crate) fn open_found(
    found: &File,
    (path, reach): (&Path, &Reach<'_>),
    how: HowToOpen,
    kind: FileKind,
) -> Result<File, ModuleError> {
    let access = match how.read_only {
        true => PathUse::Read,
        false => PathUse::Write,
    };
    let exclusive = match kind {
        FileKind::Regular => OFlag::empty(),
        FileKind::BlockDevice => OFlag::O_EXCL,
    };
    let mut options = OpenOptions::new();
    options.read(true).write(!how.read_only);
    let is_busy = |error: &io::Error| error.raw_os_error() == Some(libc::EBUSY);
    let opened = patiently(|| open_node(found, &mut options, exclusive), is_busy);
    opened.map_err(|error| match is_busy(&error) {
        true => busy(path, "it is mounted, part of an array, or another pool's"),
        false => reach.refused(access, path, &error),
    })
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
