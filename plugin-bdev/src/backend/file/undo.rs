//! What a creation that fails takes back.
//!
//! All of it is done by the file that the pool has open and locked, whatever its path leads to by then; a file that was
//! made is removed from its folder, if it is there still ([`MadeFile`]). What an overwriting creation has wiped cannot
//! be put back, nor what a killed process has left.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chimaera_bdev_file::MadeFile;
use chimaera_bdev_format::image::{FileDisk, PoolFile};
use chimaera_bdev_format::{Disk, Page};
use chimaera_chimod::{Host, Level, ModuleError};
use nix::fcntl::{FallocateFlags, fallocate};

/// What to undo if the pool is not made.
pub(crate) struct Undo {
    file: PoolFile,
    path: PathBuf,
    host: Host,
    made: Option<MadeFile>,
    grown_from: Option<u64>,
    /// Pages that may be written, which were blank.
    written: Vec<Range<u64>>,
    /// Whether it is a regular file to which its file system had given no space, so that it has nothing but zeroes.
    was_a_hole: bool,
}

impl Undo {
    /// For a file that was `made`, or else opened, at `path`.
    pub(super) fn new(file: &PoolFile, path: &Path, made: Option<MadeFile>, host: Host) -> Self {
        let metadata = file.metadata();
        Self {
            file: Arc::clone(file),
            path: path.to_owned(),
            host,
            made,
            grown_from: None,
            written: Vec::new(),
            was_a_hole: metadata.is_ok_and(|it| it.is_file() && it.blocks() == 0),
        }
    }

    /// Notes that the file has this length, and is about to be made longer.
    pub(super) fn will_grow_from(&mut self, len_bytes: u64) {
        self.grown_from = Some(len_bytes);
    }

    /// Notes that these pages of a blank file or device are about to be written, and space to be set aside in it.
    pub(crate) fn will_write(&mut self, pages: impl IntoIterator<Item = Range<u64>>) {
        self.written.extend(pages);
    }

    /// The pool was made: what was done stays.
    pub(crate) fn keep(mut self) {
        self.forget();
    }

    /// The pool was not made, for this reason: takes back what was done. The error says it where that fails. Blocks.
    #[must_use]
    pub(crate) fn after(mut self, mut error: ModuleError) -> ModuleError {
        if let Err(text) = self.take_back() {
            let _ = write!(error.message, "; {text}");
        }
        error
    }

    fn forget(&mut self) {
        self.made = None;
        self.grown_from = None;
        self.written.clear();
    }

    fn take_back(&mut self) -> Result<(), String> {
        let undone = match &self.made {
            Some(made) => made.remove().map_err(|error| ("remove", error)),
            None => {
                // What lies behind the former end goes with it; both are tried.
                let blanked = self.blank().map_err(|error| ("blank", error));
                let shortened = self
                    .grown_from
                    .map_or(Ok(()), |len_bytes| self.file.set_len(len_bytes));
                blanked.and(shortened.map_err(|error| ("shorten", error)))
            }
        };
        self.forget();
        undone.map_err(|(what, error)| {
            let path = self.path.display();
            format!(
                "what was done to {path} could not be taken back (cannot {what} it: {error}), and it may hold a part \
                 of a pool, or be longer than it was; set overwrite to make a new pool of it"
            )
        })
    }

    /// Puts zeroes in the place of what was written.
    fn blank(&self) -> io::Result<()> {
        if self.written.is_empty() {
            return Ok(());
        }
        if !(self.was_a_hole && self.make_a_hole().is_ok()) {
            let disk = FileDisk::new(Arc::clone(&self.file));
            for page in self.written.iter().cloned().flatten() {
                let mut held = Page::zeroes(1);
                // What cannot be read is written, which may mend it. What was never written stays so: there may be no
                // space, or a limit on files in the way.
                let is_blank = disk.read(page, &mut held).is_ok() && held[0].0 == Page::ZERO.0;
                if !is_blank {
                    disk.write(page, &[Page::ZERO])?;
                }
            }
        }
        self.file.sync_all()
    }

    /// Gives all of the file's space back to its file system, what was set aside included.
    fn make_a_hole(&self) -> io::Result<()> {
        let len = i64::try_from(self.file.metadata()?.len()).map_err(io::Error::other)?;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(&*self.file, flags, 0, len)?)
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Err(text) = self.take_back() {
            self.host.log(Level::Error, format_args!("{text}"));
        }
    }
}
