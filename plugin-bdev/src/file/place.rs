//! Whether the path that a pool is named by still leads to its file.
//!
//! An open file stays usable when its name goes, so nothing fails: but when the pool ends, a file without a
//! name is gone, with all that was flushed.

#![forbid(unsafe_code)]

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use chimaera_bdev_format::image::PoolFile;
use chimaera_chimod::{Host, Level, ModuleError};
use chimaera_proto::Status;

/// An open file, and the path that it was opened at.
#[derive(Debug)]
pub(crate) struct Place {
    file: PoolFile,
    path: PathBuf,
    told: AtomicBool,
}

/// What became of a file that its path does not lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// It has no name at all.
    Removed,
    /// Nothing is at its path.
    Moved,
    /// Something else is at its path.
    Replaced,
}

impl Place {
    pub(super) fn new(file: PoolFile, path: impl Into<PathBuf>) -> Self {
        Self {
            file,
            path: path.into(),
            told: AtomicBool::new(false),
        }
    }

    /// Refuses to give the open pool for what is at its path, where that is not the pool's file. Blocks as
    /// looking at a path does.
    ///
    /// # Errors
    /// [`Status::ParameterMismatch`], if the path does not lead to the file.
    pub(crate) fn check(&self) -> Result<(), ModuleError> {
        match self.lost() {
            None => Ok(()),
            Some(lost) => Err(ModuleError::new(
                Status::ParameterMismatch,
                format!(
                    "the pool is open on a file that is not at {} any more: {lost}; destroy the pool, and \
                     create it again on what is there then",
                    self.path.display()
                ),
            )),
        }
    }

    /// Whether this path leads to the file too. Blocks as looking at a path does.
    pub(crate) fn is_reached_by(&self, path: &str) -> bool {
        let named = std::fs::metadata(path);
        let own = self.file.metadata();
        own.is_ok_and(|own| named.is_ok_and(|named| is_same(&own, &named)))
    }

    /// Warns in the log, once, if the path does not lead to the file. Blocks as looking at a path does.
    pub(crate) fn warn_if_lost(&self, host: Host) {
        let Some(lost) = self.lost() else {
            return;
        };
        if !self.told.swap(true, Ordering::Relaxed) {
            host.log(
                Level::Warning,
                format_args!("the pool's file is not at its path any more: {lost}"),
            );
        }
    }

    /// What became of the file; `None` also where the path cannot be looked at, which says nothing of the file.
    fn lost(&self) -> Option<Lost> {
        let own = self.file.metadata().ok()?;
        if own.nlink() == 0 {
            return Some(Lost::Removed);
        }
        match std::fs::metadata(&self.path) {
            Ok(named) => (!is_same(&own, &named)).then_some(Lost::Replaced),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Lost::Moved),
            Err(_) => None,
        }
    }
}

/// Whether both are the same file or device. A device is the same by whatever node it is reached.
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    let is_device = |metadata: &Metadata| metadata.file_type().is_block_device();
    match (is_device(one), is_device(other)) {
        (true, true) => one.rdev() == other.rdev(),
        (false, false) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Removed => {
                "it was removed, and all that it holds is lost when the pool ends: copy elsewhere what is \
                 still wanted before that"
            }
            Self::Moved => {
                "it was moved or its folder is gone, and it is not found by this name when the pool ends: \
                 move it back, or rename the pool after that (`chimaera pool rename`)"
            }
            Self::Replaced => {
                "something else is there, and this one is not found by its name when the pool ends: put it \
                 back, or copy elsewhere what is still wanted before that"
            }
        })
    }
}
