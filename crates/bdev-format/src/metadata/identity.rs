//! Changes of what a pool's superblock says of the pool, and not of its blocks.

use std::io;

use chimaera_bdev_proto::PerfMetrics;

use super::Metadata;
use crate::Disk;
use crate::superblock::PoolOwner;

impl<D: Disk> Metadata<D> {
    /// Records other characteristics of the device. Blocks.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn declare(&mut self, metrics: PerfMetrics) -> io::Result<()> {
        self.change_superblock(|superblock| superblock.identity.metrics = metrics)
    }

    /// Records another owner, group or mode, and that the pool scrubs from now on, if it is to. Blocks.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn set_owner(&mut self, owner: PoolOwner, scrubs: bool) -> io::Result<()> {
        self.change_superblock(|superblock| {
            superblock.identity.owner = owner;
            superblock.identity.scrubs |= scrubs;
        })
    }

    /// Records that the pool scrubs from now on. Blocks.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn set_scrubs(&mut self) -> io::Result<()> {
        self.change_superblock(|superblock| superblock.identity.scrubs = true)
    }
}
