//! Whether the path that a pool is named by still leads to its file, and whether that is still all there.
//!
//! An open file stays usable when its name goes, so nothing fails: but when the pool ends, a file without a
//! name is gone, with all that was flushed. A file that was cut has lost data already, even if it has been
//! made long again. A flush could only promise the rest, so it fails until the pool has ended.
//!
//! The path of a file that was passed may mean nothing here: it may lie in a folder that this process cannot reach, or
//! in another mount namespace. Where it did not lead to the file when the pool was opened, it is not looked at.
//!
//! Law: no path is looked at for a file that somebody passed who is no operator, neither the one that he named nor one
//! that the file records. This process may look where he may not: he would put a link there and learn what exists, have
//! file systems mounted, or hold up the thread that looks. Of such a file it is told whether it has a name and all of
//! its bytes.

#![forbid(unsafe_code)]

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use chimaera_bdev_format::image::{PoolFile, size_of};
use chimaera_bdev_proto::FileState;
use chimaera_chimod::{Host, Level, ModuleError};
use chimaera_proto::{Failure, Status, shell};
use parking_lot::Mutex;

use super::source::FileOrigin;

/// An open file, the path that it was opened at, and how long it was then.
#[derive(Debug)]
pub(crate) struct NamedFile {
    file: PoolFile,
    path: PathBuf,
    /// Whether paths may be looked at.
    looks: bool,
    /// Whether the path led to the file when that was opened, as far as that may be known.
    is_at_path: bool,
    /// Bytes of it that the pool manages.
    total_size: u64,
    /// The smallest size that it was seen to have.
    smallest_size: AtomicU64,
    told: AtomicBool,
    /// What the last look found.
    state: Mutex<FileState>,
}

/// What became of a file that its path does not lead to, or that is not all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileLoss {
    /// It has no name at all.
    Removed,
    /// Nothing is at its path.
    Moved,
    /// Something else is at its path.
    Replaced,
    /// It has fewer bytes than the pool manages.
    Cut { total_size: u64, size: u64 },
}

impl NamedFile {
    /// For a file that comes from there, under this path.
    pub(super) fn new(
        file: PoolFile,
        path: impl Into<PathBuf>,
        origin: FileOrigin,
        total_size: u64,
    ) -> Self {
        let path = path.into();
        Self {
            looks: origin != FileOrigin::PassedByUser,
            is_at_path: match origin {
                FileOrigin::Opened => true,
                FileOrigin::PassedByOperator => leads_to(&path, &file),
                FileOrigin::PassedByUser => false,
            },
            file,
            path,
            total_size,
            smallest_size: AtomicU64::new(total_size),
            told: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// What the system knows of the file.
    ///
    /// # Errors
    /// It cannot be asked.
    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// Checks that the path leads to the pool's file, where it may be looked at, and that the file has a name and is
    /// whole. Blocks as looking at a path does.
    ///
    /// # Errors
    /// [`Status::ParameterMismatch`], if the path does not lead to the file, or that is lost or was cut.
    pub(crate) fn check(&self) -> Result<(), ModuleError> {
        let Some(lost) = self.lost() else {
            return Ok(());
        };
        let path = self.path.display();
        let text = match lost {
            FileLoss::Cut { .. } => {
                format!("the pool is open on {path}, which is not whole: {lost}")
            }
            _ => format!(
                "the pool is open on a file that is not at {path} any more: {lost}; destroy the pool, and \
                 create it again on what is there then"
            ),
        };
        Err(ModuleError::new(Status::ParameterMismatch, text))
    }

    /// Checks, for a flush, that no part of the file is lost. Blocks as looking at a file does.
    ///
    /// # Errors
    /// [`Status::IoError`], if the file was cut.
    pub(crate) fn check_whole(&self) -> Result<(), Failure> {
        let cut = self.cut();
        cut.map_or(Ok(()), |_| Err(Failure::io(libc::EIO)))
    }

    /// Why the pool was not flushed, and what to do.
    pub(crate) fn explain(&self, failure: Failure) -> ModuleError {
        let path = self.path.display();
        let message = match self.cut() {
            Some(cut) => format!("cannot flush {path}, which is not whole: {cut}"),
            None => format!(
                "cannot flush {path}: {failure}; nothing more of it can be flushed until the pool is destroyed, \
                 looked at by `chimaera pool check --repair {}`, and created again, and what came after its last \
                 flush may be lost then",
                shell::word(&path.to_string())
            ),
        };
        ModuleError { failure, message }
    }

    /// Whether this path leads to the file too, where it may be looked at. Blocks as looking at a path does.
    pub(crate) fn is_reached_by(&self, path: &str) -> bool {
        self.looks && leads_to(Path::new(path), &self.file)
    }

    /// Warns in the log, once, if the path does not lead to the file, or the file was cut. Blocks as looking at a
    /// path does.
    pub(crate) fn warn_if_lost(&self, host: Host) {
        let Some(lost) = self.lost() else {
            return;
        };
        if !self.told.swap(true, Ordering::Relaxed) {
            let what = match lost {
                FileLoss::Cut { .. } => "is not whole",
                _ => "is not at its path any more",
            };
            host.log(
                Level::Warning,
                format_args!("the pool's file {what}: {lost}"),
            );
        }
    }

    /// What the last look at the path found. Does not block.
    pub(crate) fn state(&self) -> FileState {
        *self.state.lock()
    }

    fn lost(&self) -> Option<FileLoss> {
        let lost = self.look();
        *self.state.lock() = lost.map_or(FileState::InPlace, FileState::from);
        lost
    }

    /// What became of the file; `None` also where the path cannot be looked at, which says nothing of the file.
    fn look(&self) -> Option<FileLoss> {
        let own = self.file.metadata().ok()?;
        if own.nlink() == 0 {
            return Some(FileLoss::Removed);
        }
        if !self.is_at_path {
            return self.cut();
        }
        match std::fs::metadata(&self.path) {
            Ok(named) if !is_same(&own, &named) => Some(FileLoss::Replaced),
            Ok(_) => self.cut(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(FileLoss::Moved),
            Err(_) => None,
        }
    }

    /// The cut, if the file is shorter than the pool or was at an earlier look: what has come to lie in the
    /// place of the bytes that went is not what was there. `None` also where the file does not say how long
    /// it is.
    pub(crate) fn cut(&self) -> Option<FileLoss> {
        let (total_size, now) = (self.total_size, size_of(&self.file).ok()?);
        // Relaxed: the number stands for itself.
        let size = self
            .smallest_size
            .fetch_min(now, Ordering::Relaxed)
            .min(now);
        (size < total_size).then_some(FileLoss::Cut { total_size, size })
    }
}

impl From<FileLoss> for FileState {
    fn from(lost: FileLoss) -> Self {
        match lost {
            FileLoss::Removed => Self::Removed,
            FileLoss::Moved => Self::Moved,
            FileLoss::Replaced => Self::Replaced,
            FileLoss::Cut { .. } => Self::Cut,
        }
    }
}

/// Whether the path leads to the file, as far as this process can tell.
fn leads_to(path: &Path, file: &PoolFile) -> bool {
    let (named, own) = (std::fs::metadata(path), file.metadata());
    own.is_ok_and(|own| named.is_ok_and(|named| is_same(&own, &named)))
}

/// Whether both are the same file or device. A device is the same whatever node it is reached by.
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    let is_device = |metadata: &Metadata| metadata.file_type().is_block_device();
    match (is_device(one), is_device(other)) {
        (true, true) => one.rdev() == other.rdev(),
        (false, false) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

impl fmt::Display for FileLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cut { total_size, size } => {
                return write!(
                    f,
                    "it was cut off, to {size} bytes of {total_size}, and what lay behind them is lost: copy \
                     elsewhere what is still wanted, destroy the pool, and see what `chimaera pool check` says of \
                     the file"
                );
            }
            Self::Removed | Self::Moved | Self::Replaced => {
                FileState::from(*self).account().unwrap_or_default()
            }
        })
    }
}
