//! The versions of the on-disk format, and what differs between them.
//!
//! Every version that was ever in use is opened, written, checked and repaired. What differs is where copies lie, which
//! [`Geometry`](crate::Geometry) has as data, and the bytes of superblocks and of the journal's records.

/// A version of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FormatVersion {
    /// Both copies of everything lie at the beginning of their extent; tags have one copy.
    One = 1,
    /// Second copies lie far from the first ones.
    Two = 2,
}

impl FormatVersion {
    /// The version of new pools.
    pub const NEWEST: Self = Self::Two;

    /// All versions, the oldest first.
    pub const ALL: [Self; 2] = [Self::One, Self::Two];

    /// Its number on the device.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The version with this number, if this program knows it.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|version| version.number() == number)
    }

    /// How many copies of a record lie one behind the other in the same half of the journal. Where it is one, the
    /// other copy lies in the journal's other region.
    pub(crate) const fn copies_in_region(self) -> u64 {
        match self {
            Self::One => 2,
            Self::Two => 1,
        }
    }
}
