//! A superblock that was found far from the beginning of its device.

use std::fmt;

use super::Superblock;
use crate::limits::PAGE_BYTES;

/// A sound copy of a superblock that lies far from the beginning of the device.
#[derive(Clone, Debug)]
pub struct FarCopy {
    /// Its first page.
    pub first_page: u64,
    /// What it says.
    pub superblock: Superblock,
}

impl FarCopy {
    /// The UUIDs of the pools that these copies are of, each once.
    pub fn uuids_of(copies: &[Self]) -> Vec<[u8; 16]> {
        let mut uuids: Vec<_> = copies.iter().map(|copy| copy.superblock.uuid).collect();
        uuids.sort_unstable();
        uuids.dedup();
        uuids
    }
}

impl fmt::Display for FarCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = &self.superblock.identity;
        write!(
            f,
            "pool {} \"{}\" with UUID {}, at offset {:#x}",
            identity.pool,
            identity.name.escape_debug(),
            hyphenated(&self.superblock.uuid),
            self.first_page * PAGE_BYTES as u64
        )
    }
}

/// A UUID as people write it.
pub(crate) fn hyphenated(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in uuid.iter().enumerate() {
        if [4, 6, 8, 10].contains(&at) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
