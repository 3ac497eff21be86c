//! What a creation that fails takes back.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chimaera_bdev_format::image::PoolFile;

/// What to undo if the pool is not made.
pub(crate) struct Undo {
    file: PoolFile,
    path: PathBuf,
    created: bool,
    grown_from: Option<u64>,
}

impl Undo {
    /// For a file that was `created`, or else opened, at `path`.
    pub(super) fn new(file: &PoolFile, path: &Path, created: bool) -> Self {
        Self {
            file: Arc::clone(file),
            path: path.to_owned(),
            created,
            grown_from: None,
        }
    }

    /// Notes that the file has this length, and is about to be made longer.
    pub(super) fn will_grow_from(&mut self, len_bytes: u64) {
        self.grown_from = Some(len_bytes);
    }

    /// The pool was made: what was done stays.
    pub(crate) fn keep(mut self) {
        self.created = false;
        self.grown_from = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        // A failure here leaves a file that is not wanted or too long. The error that led here matters more.
        if self.created {
            let _ = std::fs::remove_file(&self.path);
        } else if let Some(len) = self.grown_from {
            let _ = self.file.set_len(len);
        }
    }
}
