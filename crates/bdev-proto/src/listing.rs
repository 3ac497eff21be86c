//! Finding one's blocks again: lists of allocated blocks, and the map of a pool.

use serde::{Deserialize, Serialize};

use crate::{BLOCK_WIRE_BYTES, Block, MEGABYTE, UNIT_BYTES};
use chimaera_proto::status::Status;
use chimaera_proto::task::ARGUMENT_COUNT;

/// Bytes of a block with its owner tag in a list.
pub const OWNED_BLOCK_WIRE_BYTES: usize = BLOCK_WIRE_BYTES + 8;

/// Stands in the place of the next megabyte's number where a listing or map is complete.
pub const MAP_END: u64 = u64::MAX;

/// Says whose a block is: a number that its client chose when it allocated the block. 0 is no tag.
///
/// The pool stores the tag with the block and does not interpret it: a tag grants no rights.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct OwnerTag(pub u64);

impl OwnerTag {
    /// No tag.
    pub const NONE: Self = Self(0);

    /// The tag that these 64 bits are; 0 is none.
    #[must_use]
    pub const fn new(tag: u64) -> Self {
        Self(tag)
    }

    /// Whether there is no tag.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// An allocated block, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OwnedBlock {
    /// The block.
    pub block: Block,
    /// The tag that it was allocated with.
    pub owner: OwnerTag,
}

impl OwnedBlock {
    /// The bytes that stand for it in a list.
    #[must_use]
    pub fn to_bytes(self) -> [u8; OWNED_BLOCK_WIRE_BYTES] {
        let mut bytes = [0; OWNED_BLOCK_WIRE_BYTES];
        bytes[..BLOCK_WIRE_BYTES].copy_from_slice(&self.block.to_bytes());
        bytes[BLOCK_WIRE_BYTES..].copy_from_slice(&self.owner.0.to_le_bytes());
        bytes
    }

    /// Reads it from a list; see [`Block::from_words`].
    ///
    /// # Errors
    /// As [`Block::from_words`].
    pub fn from_bytes(bytes: [u8; OWNED_BLOCK_WIRE_BYTES]) -> Result<Self, Status> {
        let block = Block::from_bytes(std::array::from_fn(|at| bytes[at]))?;
        let owner = u64::from_le_bytes(std::array::from_fn(|at| bytes[BLOCK_WIRE_BYTES + at]));
        Ok(Self {
            block,
            owner: OwnerTag(owner),
        })
    }
}

/// Arguments of [`Method::ListBlocks`](super::Method::ListBlocks): the megabyte at which the page
/// begins, in order of offset. The buffer has room for the blocks of at least one megabyte
/// ([`MIN_LISTING_BUFFER_BYTES`]). The host fills it with `values[0]` blocks of [`OWNED_BLOCK_WIRE_BYTES`]
/// each; `values[1]` is the megabyte at which the next page begins, or [`MAP_END`]. A page that is empty
/// need not be the last.
#[must_use]
pub const fn listing_arguments(first_megabyte: u64) -> [u64; ARGUMENT_COUNT] {
    [first_megabyte, 0, 0]
}

/// Bytes of the smallest buffer for a page of a listing.
pub const MIN_LISTING_BUFFER_BYTES: usize =
    (MEGABYTE / UNIT_BYTES) as usize * OWNED_BLOCK_WIRE_BYTES;

/// Arguments of [`Method::GetMap`](super::Method::GetMap): the megabyte at which the page begins. The host
/// fills `values[0]` bytes of the buffer with the [`MegabyteState`] of a megabyte each; `values[1]` is the
/// megabyte at which the next page begins, or [`MAP_END`].
#[must_use]
pub const fn map_arguments(first_megabyte: u64) -> [u64; ARGUMENT_COUNT] {
    [first_megabyte, 0, 0]
}

/// How much of a megabyte of a pool is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum MegabyteState {
    /// Nothing: it can be allocated as a megabyte.
    Free = 0,
    /// A part.
    Split = 1,
    /// All.
    Used = 2,
    /// The pool's own metadata, and no blocks besides.
    Metadata = 3,
}

impl MegabyteState {
    /// The state with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Free,
            1 => Self::Split,
            2 => Self::Used,
            3 => Self::Metadata,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockType;

    #[test]
    fn an_owned_block_reads_as_it_is_written() {
        let owned = OwnedBlock {
            block: Block::new(5 * MEGABYTE, BlockType::Kib64),
            owner: OwnerTag(0x0123_4567_89ab_cdef),
        };
        assert_eq!(OwnedBlock::from_bytes(owned.to_bytes()), Ok(owned));
        let mut bytes = owned.to_bytes();
        bytes[0] = 1;
        assert_eq!(OwnedBlock::from_bytes(bytes), Err(Status::WrongSize));
    }

    #[test]
    fn every_state_has_its_number() {
        for number in 0..=u8::MAX {
            let state = MegabyteState::from_number(number);
            assert!(state.is_none_or(|state| state as u8 == number));
        }
    }
}
