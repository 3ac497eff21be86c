//! The superblock: what a pool is, and where its parts lie. There are two or four copies of it;
//! `docs/ON_DISK_FORMAT.md` has its bytes, which differ between the versions of the format.

mod age;
mod copies;
mod finding;
mod version_1;
mod version_2;

use chimaera_bdev_proto::{CreateParams, IoEngine, PerfMetrics};
use chimaera_proto::{Permissions, PoolId};

use crate::geometry::Geometry;
use crate::limits::{MAX_COUNTED, PAGE_BYTES, SUPERBLOCK_PAGES};
use crate::page::{Checksum, Page, bytes_of, put_u32, put_u64, u32_at, u64_at};
use crate::version::FormatVersion;
use crate::weakness::{CrashWeakness, weakened};
pub use copies::{ConflictingCopies, FarCopies, SuperblockCopy, TwoPools};
pub(crate) use copies::{NotPicked, hyphenated};
pub(crate) use finding::{ChosenSuperblock, choose, overwritten_pages};

const MAGIC: u32 = u32::from_le_bytes(*b"CHIM");
const SECOND_MAGIC: u64 = u64::from_le_bytes(*b"AERAPOOL");

// What all versions have in the same place.
const SECOND_MAGIC_AT: usize = 8;
const VERSION_AT: usize = 16;
const FEATURES_AT: usize = 24;
const UUID_AT: usize = 48;
// And from version 2 on.
const FAR_AT: usize = 80;
const PLACE_AT: usize = 88;

const BYTES: usize = SUPERBLOCK_PAGES as usize * PAGE_BYTES;

/// The features of the format that a pool uses, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FormatFeatures {
    /// A program that does not know one of these must not open the pool.
    pub incompatible: u64,
    /// A program that does not know one of these may only read the pool.
    pub read_only_compatible: u64,
    /// A program that does not know one of these may use the pool, and keeps the bit.
    pub compatible: u64,
}

impl FormatFeatures {
    /// Blocks are zeroed before they are handed out ([`Identity::scrubs`]): read-only compatible, since a program that
    /// does not know of it would hand them out as they are.
    const SCRUBS: u64 = 1;

    /// The features that this program knows.
    const KNOWN: Self = Self {
        incompatible: 0,
        read_only_compatible: Self::SCRUBS,
        compatible: 0,
    };

    /// Whether the pool may only be read.
    pub(crate) const fn forbid_writing(self) -> bool {
        self.unknown().read_only_compatible != 0
    }

    /// Those that this program does not know.
    const fn unknown(self) -> Self {
        Self {
            incompatible: self.incompatible & !Self::KNOWN.incompatible,
            read_only_compatible: self.read_only_compatible & !Self::KNOWN.read_only_compatible,
            compatible: self.compatible & !Self::KNOWN.compatible,
        }
    }

    const fn scrubs(self) -> bool {
        self.read_only_compatible & Self::SCRUBS != 0
    }
}

/// The owner of a pool, in the terms of a file's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolOwner {
    /// User id.
    pub user: u32,
    /// Group id.
    pub group: u32,
    /// Permission bits.
    pub mode: u32,
}

impl From<Permissions> for PoolOwner {
    fn from(permissions: Permissions) -> Self {
        Self {
            user: permissions.owner,
            group: permissions.group,
            mode: permissions.mode.into(),
        }
    }
}

impl PoolOwner {
    /// Bits of a mode that let others than the owner read or write.
    const BITS_OF_OTHERS: u32 = 0o066;

    /// Whether others than the owner may read or write.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        self.mode & Self::BITS_OF_OTHERS != 0
    }

    /// Whether this may let somebody read or write who could not do so `before`. Said too often rather than too
    /// seldom: which groups a user is in is not known here.
    #[must_use]
    pub const fn lets_others_in(self, before: Self) -> bool {
        let bits = self.mode & Self::BITS_OF_OTHERS;
        // With another group, members of the former one become others, whose bits may be more.
        self.user != before.user
            || (self.group != before.group && bits != 0)
            || bits & !before.mode != 0
    }
}

/// A pool's id, name and owner, and how its device is to be used, as its creator chose.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The pool's id, which it has wherever it is opened.
    pub pool: PoolId,
    /// The pool's name: the path at which it was made, or to which it was renamed since.
    pub name: String,
    /// The user who made the pool.
    pub owner: PoolOwner,
    /// Alignment of device operations in bytes, as was asked for.
    pub alignment: u32,
    /// Operations in flight on the device per worker, as was asked for.
    pub io_depth: u32,
    /// The I/O engine, as was asked for.
    pub io_engine: IoEngine,
    /// The declared characteristics of the device.
    pub metrics: PerfMetrics,
    /// Whether blocks are zeroed before they are handed out. In the superblock that is a feature.
    pub scrubs: bool,
}

/// Random numbers and the time, for a pool that is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Birth {
    /// The pool's UUID.
    pub uuid: [u8; 16],
    /// Random bits that its checksums begin with.
    pub seed: u32,
    /// Random bits that its first history has.
    pub history: u64,
    /// Seconds since 1970.
    pub created: u64,
}

/// The openings of a pool for writing. Making the pool is the first one.
///
/// What a client learnt in one opening holds in the next one if that follows it directly and it ended in good order:
/// otherwise allocations may have been forgotten, and given to somebody else since. Histories are random, since a count
/// repeats where a virtual machine goes back to an older image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// 64 random bits of the newest opening.
    pub current: u64,
    /// Those of the opening before, 0 if there was none.
    pub predecessor: u64,
    /// Whether the opening before ended in good order.
    pub predecessor_ended_well: bool,
    /// Whether the newest opening has ended in good order.
    pub ended_well: bool,
    /// How many openings there were.
    pub openings: u64,
}

impl History {
    /// The history of the next opening, which has these random bits.
    #[must_use]
    pub(crate) fn next(self, current: u64) -> Self {
        let counted = match weakened(CrashWeakness::OpeningsCountedAnew) {
            true => 0,
            false => self.openings,
        };
        let current = match weakened(CrashWeakness::HistoryUsedTwice) {
            true => self.current,
            false => current,
        };
        Self {
            current,
            predecessor: self.current,
            predecessor_ended_well: self.ended_well || weakened(CrashWeakness::EndAssumed),
            ended_well: false,
            openings: counted.saturating_add(1).min(MAX_COUNTED),
        }
    }

    /// Whether what was learnt in the opening with these random bits still holds.
    #[must_use]
    pub fn follows(self, earlier: u64) -> bool {
        earlier == self.current || (earlier == self.predecessor && self.predecessor_ended_well)
    }
}

/// Bytes of a root slot.
pub(crate) const ROOT_BYTES: usize = 32;

/// A superblock whose checksum and contents were checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Superblock {
    /// The features of the format that this program does not know, all of which it keeps.
    pub(crate) unknown_features: FormatFeatures,
    /// Unique to the pool, copies of it aside.
    pub uuid: [u8; 16],
    /// Grows with each change of the superblock.
    pub generation: u64,
    /// What the pool's creator chose.
    pub identity: Identity,
    /// When the pool was made, in seconds since 1970.
    pub created: u64,
    /// The table has the updates of this epoch of the journal, and of earlier ones.
    pub epoch: u64,
    /// Sequence of the last record of the journal whose updates are in the table.
    pub sequence: u64,
    /// The openings of the pool. Version 1 does not count them.
    pub history: Option<History>,
    /// What the checksums of the pool's other structures begin with.
    pub(crate) seed: u32,
    /// Where everything lies.
    pub geometry: Geometry,
    /// The bytes as they were read, in which newer programs may have put what this one does not know. Empty in version
    /// 1, and in a pool that was made just now.
    pub(crate) template: Vec<u8>,
}

/// Why there is no superblock to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoSuperblock {
    /// There is something else, or nothing.
    Absent,
    /// The superblock is damaged.
    Damaged,
    /// The device cannot read it.
    Unreadable,
    /// This program cannot use the superblock.
    Unsupported(Unsupported),
}

/// A superblock with a right checksum that this program cannot use, and what it says in every version of the format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unsupported {
    /// Why.
    pub(crate) reason: String,
    uuid: [u8; 16],
    /// Its far place and its own first page, which version 1 does not say.
    places: Option<[u64; 2]>,
    /// Its generation, in version 2.
    generation: Option<u64>,
}

impl Unsupported {
    fn of(bytes: &[u8], reason: String) -> Self {
        let number = u32_at(bytes, VERSION_AT);
        Self {
            reason,
            uuid: std::array::from_fn(|byte| bytes[UUID_AT + byte]),
            places: (number >= FormatVersion::Two.number())
                .then(|| [FAR_AT, PLACE_AT].map(|at| u64_at(bytes, at))),
            generation: (number == FormatVersion::Two.number())
                .then(|| version_2::generation(bytes)),
        }
    }
}

impl Superblock {
    /// The superblock of a pool that is being made.
    pub(crate) fn of_new_pool(identity: Identity, geometry: Geometry, birth: Birth) -> Self {
        let is_first = geometry.version == FormatVersion::One;
        Self {
            unknown_features: FormatFeatures::default(),
            uuid: birth.uuid,
            generation: 1,
            identity,
            created: birth.created,
            epoch: 0,
            sequence: 0,
            history: (!is_first).then(|| History::default().next(birth.history)),
            seed: if is_first {
                Checksum::seed_of(&birth.uuid)
            } else {
                birth.seed
            },
            geometry,
            template: Vec::new(),
        }
    }

    /// The version of the format that it is in.
    pub fn version(&self) -> FormatVersion {
        self.geometry.version
    }

    /// The features of the format that the pool uses.
    #[must_use]
    pub fn features(&self) -> FormatFeatures {
        let mut features = self.unknown_features;
        if self.identity.scrubs {
            features.read_only_compatible |= FormatFeatures::SCRUBS;
        }
        features
    }

    /// The checksums of the pool's other structures.
    pub(crate) fn checksum(&self) -> Checksum {
        Checksum::begin_with(self.seed)
    }

    /// Reads the pages of a superblock, of which the first one is `place`.
    pub(crate) fn read(pages: &[Page], place: u64) -> Result<Self, NoSuperblock> {
        let bytes = bytes_of(pages);
        if bytes.len() != BYTES || !has_magic(bytes) {
            return Err(NoSuperblock::Absent);
        }
        let holds = Checksum::UNSEEDED.holds(MAGIC, bytes)
            || (weakened(CrashWeakness::SuperblockUnchecked) && u32_at(bytes, 0) == MAGIC);
        if !holds {
            return Err(NoSuperblock::Damaged);
        }
        let features = FormatFeatures {
            incompatible: u64_at(bytes, FEATURES_AT),
            read_only_compatible: u64_at(bytes, FEATURES_AT + 8),
            compatible: u64_at(bytes, FEATURES_AT + 16),
        };
        let number = u32_at(bytes, VERSION_AT);
        let Some(version) = FormatVersion::from_number(number) else {
            let [oldest, .., newest] = FormatVersion::ALL.map(FormatVersion::number);
            let reason = format!(
                "its format has version {number}, this program knows versions {oldest} to {newest}: use a newer program"
            );
            return Err(NoSuperblock::Unsupported(Unsupported::of(bytes, reason)));
        };
        let unknown = features.unknown().incompatible;
        if unknown != 0 {
            let reason = format!(
                "it uses features that this program does not know ({unknown:#x}): use a newer program"
            );
            return Err(NoSuperblock::Unsupported(Unsupported::of(bytes, reason)));
        }
        // Values that no program of this version writes are damage, even with a right checksum.
        let read = match version {
            FormatVersion::One => version_1::read(bytes, features),
            FormatVersion::Two => version_2::read(bytes, features, place),
        };
        read.ok_or(NoSuperblock::Damaged)
    }

    /// Whether at least `left` more of each can be counted of what grows one by one, of records up to this sequence.
    pub(crate) fn can_count(&self, left: u64, sequence: u64) -> bool {
        let largest = self.generation.max(self.epoch).max(sequence);
        largest <= MAX_COUNTED - left
    }

    /// Whether another copy is of the same pool. A copy of a pool that is given a UUID of its own keeps the seed, so
    /// that it does not matter how far that has come.
    fn is_of_pool(&self, other: &Self) -> bool {
        let origin =
            |superblock: &Self| (superblock.seed, superblock.created, superblock.geometry.far);
        self.uuid == other.uuid
            || (self.version() >= FormatVersion::Two && origin(self) == origin(other))
    }

    /// Whether another copy says the same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let bytes = |superblock: &Self| bytes_of(&superblock.to_pages(0)).to_vec();
        bytes(self) == bytes(other)
    }

    /// The pages of the copy of the superblock of which the first one is `place`.
    pub(crate) fn to_pages(&self, place: u64) -> Vec<Page> {
        let mut bytes = self.template.clone();
        bytes.resize(BYTES, 0);
        put_u64(&mut bytes, SECOND_MAGIC_AT, SECOND_MAGIC);
        put_u32(&mut bytes, VERSION_AT, self.version().number());
        let features = self.features();
        put_u64(&mut bytes, FEATURES_AT, features.incompatible);
        put_u64(&mut bytes, FEATURES_AT + 8, features.read_only_compatible);
        put_u64(&mut bytes, FEATURES_AT + 16, features.compatible);
        bytes[UUID_AT..UUID_AT + 16].copy_from_slice(&self.uuid);
        match self.version() {
            FormatVersion::One => version_1::write(self, &mut bytes),
            FormatVersion::Two => version_2::write(self, &mut bytes, place),
        }
        Checksum::UNSEEDED.seal(MAGIC, &mut bytes);
        let (pages, _) = bytes.as_chunks::<PAGE_BYTES>();
        pages.iter().map(|&page| Page(page)).collect()
    }
}

/// Whether the bytes begin as a superblock does, damaged or not.
pub(crate) fn has_magic(bytes: &[u8]) -> bool {
    u32_at(bytes, 0) == MAGIC || u64_at(bytes, SECOND_MAGIC_AT) == SECOND_MAGIC
}

/// The numbers in a superblock that grow one by one, if they are possible.
fn counted<const N: usize>(numbers: [u64; N]) -> Option<[u64; N]> {
    numbers
        .iter()
        .all(|number| *number <= MAX_COUNTED)
        .then_some(numbers)
}

/// The alignment of device operations, if it is a possible one. A larger one would let a write reach beyond its block.
fn read_alignment(bytes: &[u8], at: usize) -> Option<u32> {
    let alignment = u32_at(bytes, at);
    CreateParams::is_alignment(alignment).then_some(alignment)
}

/// The number of operations in flight per worker, if it is a possible one: memory is set aside for each.
fn read_io_depth(bytes: &[u8], at: usize) -> Option<u32> {
    let io_depth = u32_at(bytes, at);
    (1..=CreateParams::MAX_IO_DEPTH)
        .contains(&io_depth)
        .then_some(io_depth)
}

fn read_engine(number: u32) -> Option<IoEngine> {
    Some(match number {
        0 => IoEngine::Auto,
        1 => IoEngine::Libaio,
        2 => IoEngine::IoUring,
        _ => return None,
    })
}

fn read_metrics(bytes: &[u8], at: usize) -> PerfMetrics {
    let metric = |place: usize| f64::from_bits(u64_at(bytes, at + 8 * place));
    PerfMetrics {
        read_bandwidth_mbps: metric(0),
        write_bandwidth_mbps: metric(1),
        read_latency_us: metric(2),
        write_latency_us: metric(3),
        iops: metric(4),
    }
}

fn write_metrics(metrics: &PerfMetrics, bytes: &mut [u8], at: usize) {
    let values = [
        metrics.read_bandwidth_mbps,
        metrics.write_bandwidth_mbps,
        metrics.read_latency_us,
        metrics.write_latency_us,
        metrics.iops,
    ];
    for (place, value) in values.into_iter().enumerate() {
        put_u64(bytes, at + 8 * place, value.to_bits());
    }
}

#[cfg(test)]
mod tests;
