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

/// What a pool knows of a block's owner tag.
///
/// It equals an [`OwnerTag`] if it is known to be that one. So what is unknown equals no tag, nor [`OwnerTag::NONE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ListedTag {
    /// The tag that the block was allocated with, [`OwnerTag::NONE`] for none.
    Known(OwnerTag),
    /// The block may have any tag, or none: the place on the device that says so is damaged.
    Unknown,
}

impl ListedTag {
    /// The tag, unless it is unknown.
    #[must_use]
    pub const fn known(self) -> Option<OwnerTag> {
        match self {
            Self::Known(tag) => Some(tag),
            Self::Unknown => None,
        }
    }
}

impl From<OwnerTag> for ListedTag {
    fn from(tag: OwnerTag) -> Self {
        Self::Known(tag)
    }
}

impl PartialEq<OwnerTag> for ListedTag {
    fn eq(&self, tag: &OwnerTag) -> bool {
        self.known() == Some(*tag)
    }
}

/// An allocated block, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OwnedBlock {
    /// The block.
    pub block: Block,
    /// The tag that it was allocated with, as far as it is known.
    pub owner: ListedTag,
}

/// In a list, marks the second word of a block whose owner tag is unknown.
const UNKNOWN_TAG: u64 = 1 << 63;

impl OwnedBlock {
    /// The block, with a tag that is known.
    #[must_use]
    pub const fn new(block: Block, tag: OwnerTag) -> Self {
        let owner = ListedTag::Known(tag);
        Self { block, owner }
    }

    /// The bytes that stand for it in a list: the block's words, then its tag. Where that is unknown, the top bit of
    /// the second word is set, and the third is 0.
    #[must_use]
    pub fn to_bytes(self) -> [u8; OWNED_BLOCK_WIRE_BYTES] {
        let [first, second] = self.block.to_words();
        let (mark, tag) = match self.owner {
            ListedTag::Known(tag) => (0, tag.0),
            ListedTag::Unknown => (UNKNOWN_TAG, 0),
        };
        let mut bytes = [0; OWNED_BLOCK_WIRE_BYTES];
        let words = [first, second | mark, tag].map(u64::to_le_bytes);
        bytes.copy_from_slice(words.as_flattened());
        bytes
    }

    /// Reads it from a list.
    ///
    /// # Errors
    /// As [`Block::from_words`]; [`Status::ProtocolViolation`] for a tag that is there and called unknown.
    pub fn from_bytes(bytes: [u8; OWNED_BLOCK_WIRE_BYTES]) -> Result<Self, Status> {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[8 * at + byte]));
        let block = Block::from_words([word(0), word(1) & !UNKNOWN_TAG])?;
        let owner = match (word(1) & UNKNOWN_TAG != 0, word(2)) {
            (false, tag) => ListedTag::Known(OwnerTag(tag)),
            (true, 0) => ListedTag::Unknown,
            (true, _) => return Err(Status::ProtocolViolation),
        };
        Ok(Self { block, owner })
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
        let tags = [0, 1, 0x0123_4567_89ab_cdef, u64::MAX].map(|tag| OwnerTag(tag).into());
        for owner in tags.into_iter().chain([ListedTag::Unknown]) {
            for block_type in BlockType::ALL {
                let block = Block::new(5 * MEGABYTE, block_type);
                let owned = OwnedBlock { block, owner };
                assert_eq!(OwnedBlock::from_bytes(owned.to_bytes()), Ok(owned));
                let mut bytes = owned.to_bytes();
                bytes[0] = 1;
                assert_eq!(OwnedBlock::from_bytes(bytes), Err(Status::WrongSize));
            }
        }
    }

    #[test]
    fn what_is_unknown_is_no_tag_and_comes_with_none() {
        for tag in [0, 1, u64::MAX].map(OwnerTag) {
            assert_eq!(ListedTag::Known(tag), tag);
            assert_ne!(ListedTag::Unknown, tag);
        }
        let block = Block::new(0, BlockType::Kib4);
        let owner = ListedTag::Unknown;
        let mut bytes = OwnedBlock { block, owner }.to_bytes();
        bytes[OWNED_BLOCK_WIRE_BYTES - 1] = 1;
        assert_eq!(
            OwnedBlock::from_bytes(bytes),
            Err(Status::ProtocolViolation)
        );
    }

    #[test]
    fn every_state_has_its_number() {
        for number in 0..=u8::MAX {
            let state = MegabyteState::from_number(number);
            assert!(state.is_none_or(|state| state as u8 == number));
        }
    }
}
