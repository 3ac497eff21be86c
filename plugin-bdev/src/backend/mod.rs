//! How bytes get to a pool's memory or device.

pub(crate) mod file;
pub(crate) mod new_blocks;
pub(crate) mod ram;
mod stream;
pub(crate) mod transfer;

use file::FileDevice;
use ram::RamDevice;

/// Where the bytes of a pool lie.
pub(crate) enum Backend {
    Ram(RamDevice),
    File(Box<FileDevice>),
}
