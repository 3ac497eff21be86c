//! Where the kernel may keep whoever hands it an operation.
//!
//! A worker must not wait there, as it serves other pools too. What decides is what the file is:
//!
//! | file | `io_submit` (AIO) | `io_uring_enter` |
//! |---|---|---|
//! | in memory (tmpfs) | only copies, to and from pages as those of a client's own memory, which a worker touches anyway; the system freezes no such file system | the same, by a thread of the kernel's |
//! | a device, bypassing the page cache | returns at once with `RWF_NOWAIT`, also if the device's queue is full (`REQ_NOWAIT`) | the same: the kernel asks like that first, and has a thread of its own wait |
//! | a regular file, bypassing the page cache | reads: returns at once with `RWF_NOWAIT`, but for what remains (below). Writes: waits as long as the file system is frozen, with `RWF_NOWAIT` too (`aio_write` takes the lock of writers first) | does not wait for a file system that is frozen, nor for one that has to find room |
//! | any other file through the page cache | waits for the device where pages are not cached or cannot be written | may wait for the device where a file system looks up where its blocks are |
//!
//! So AIO hands to the kernel by itself only what does not wait, and leaves the rest to a thread of the pool's
//! ([`super::submitter`]); io_uring has the kernel use its threads at once (`IOSQE_ASYNC`) for the last row.
//!
//! What remains: a file system does not pass on to its device that nobody is to wait, so that a device whose queue is
//! full keeps the worker until it has ended another operation, with either engine (seen with ext4 on Linux 6.18); and
//! it may have to read from the device where a file's blocks lie. A device that never answers again can keep a worker
//! for ever by that, if more is under way on it than its queue takes. The host's watchdog names such a worker.

#![forbid(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileTypeExt;

use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use super::engine::Opcode;

/// Which operations on a file may keep whoever hands them to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocking {
    /// None.
    None,
    /// None if the kernel is told not to wait.
    UnlessTold,
    /// Writes, whatever the kernel is told, and reads unless it is told not to wait.
    Writes,
    /// All.
    All,
}

impl Blocking {
    /// What is so of this file, whose I/O bypasses the page cache or not.
    pub(super) fn of(file: &File, direct: bool) -> Self {
        let is_device = file
            .metadata()
            .is_ok_and(|metadata| metadata.file_type().is_block_device());
        match (is_device, direct) {
            (true, true) => Self::UnlessTold,
            (false, true) => Self::Writes,
            (false, false) if is_in_memory(file) => Self::None,
            (_, false) => Self::All,
        }
    }

    /// How AIO does such an operation.
    pub(super) fn way(self, opcode: Opcode) -> Way {
        match (self, opcode) {
            (Self::None, _) => Way::Plain,
            (Self::UnlessTold, _) | (Self::Writes, Opcode::Read) => Way::NoWait,
            (Self::Writes, Opcode::Write) | (Self::All, _) => Way::HandedOver,
        }
    }
}

/// How an operation is handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By the worker.
    Plain,
    /// By the worker, and the kernel is told not to wait.
    NoWait,
    /// By a thread that may wait.
    HandedOver,
}

fn is_in_memory(file: &File) -> bool {
    fstatfs(file).is_ok_and(|system| system.filesystem_type() == TMPFS_MAGIC)
}
