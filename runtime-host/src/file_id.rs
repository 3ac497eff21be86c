//! What identifies a file.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// Identifies a file: its device and inode.
pub(crate) type FileId = (u64, u64);

pub(crate) fn id_of(file: &Metadata) -> FileId {
    (file.dev(), file.ino())
}
