//! The ids of a workload: one for its journal, and one for each allocation and each write.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};

use chimaera_bdev_client::OwnerTag;

/// Bits of an operation id: it is the lower part of an owner tag.
const OPERATION_ID_BITS: u32 = 40;

/// Tells the blocks of one journal from those of every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalId(pub u128);

impl JournalId {
    /// An id for a new journal, which no other has.
    ///
    /// # Errors
    /// The system gives no random numbers: `/dev/urandom` cannot be read.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes))?;
        Ok(Self(u128::from_le_bytes(bytes)))
    }

    /// The owner tag of an allocation: a part of the journal's id, which is never 0, then the allocation's id.
    pub(super) const fn tag(self, allocation: OperationId) -> OwnerTag {
        OwnerTag(self.tag_start() << OPERATION_ID_BITS | allocation.0)
    }

    /// The allocation that a tag names, if it is a tag of this journal.
    pub(super) const fn allocation(self, tag: OwnerTag) -> Option<OperationId> {
        if tag.0 >> OPERATION_ID_BITS == self.tag_start() {
            Some(OperationId(tag.0 & ((1 << OPERATION_ID_BITS) - 1)))
        } else {
            None
        }
    }

    const fn tag_start(self) -> u64 {
        (self.0 >> 104) as u64 | 1 << 23
    }
}

impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The id of an allocation or of a write, issued once in a journal's life: the thread of the workload that made it, and
/// its number in that thread. That of a write is also the generation of what it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OperationId(u64);

impl OperationId {
    pub(super) const fn new(thread: u8, number: u32) -> Self {
        Self((thread as u64) << 32 | number as u64)
    }

    /// The id that [`Self::bits`] has given.
    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    pub(super) const fn thread(self) -> u8 {
        (self.0 >> 32) as u8
    }

    pub(super) const fn number(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.thread(), self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: JournalId = JournalId(0x1234_5678_9abc_def0_0fed_cba9_8765_4321);

    #[test]
    fn a_tag_names_its_journal_and_allocation() {
        let allocation = OperationId::new(u8::MAX, u32::MAX);
        assert_eq!(ID.allocation(ID.tag(allocation)), Some(allocation));
        let parts = (allocation.thread(), allocation.number());
        assert_eq!(parts, (u8::MAX, u32::MAX));
        assert_eq!(ID.allocation(OwnerTag::NONE), None);
        assert_eq!(JournalId(0).allocation(OwnerTag(0)), None);
        assert_eq!(ID.allocation(JournalId(!ID.0).tag(allocation)), None);
    }
}
