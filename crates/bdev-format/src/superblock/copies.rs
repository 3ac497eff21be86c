//! Copies of superblocks that were found on a device, and the pools that they are of.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use super::{NoSuperblock, Superblock};
use crate::limits::{PAGE_BYTES, SUPERBLOCK_PAGES};

/// A sound copy of a superblock.
#[derive(Clone, Debug)]
pub struct SuperblockCopy {
    /// Its first page.
    pub first_page: u64,
    /// What it says.
    pub superblock: Superblock,
}

impl SuperblockCopy {
    fn offset(&self) -> u64 {
        self.first_page * PAGE_BYTES as u64
    }
}

impl fmt::Display for SuperblockCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, at offset {:#x}", named(self), self.offset())
    }
}

/// The pool that a copy is of, in words.
fn named(copy: &SuperblockCopy) -> String {
    let identity = &copy.superblock.identity;
    format!(
        "pool {} \"{}\" with UUID {}",
        identity.pool,
        identity.name.escape_debug(),
        hyphenated(&copy.superblock.uuid)
    )
}

/// A copy with a right checksum, in its place, that this program cannot use.
#[derive(Clone, Debug)]
pub(crate) struct UnsupportedCopy {
    pub(crate) first_page: u64,
    pub(crate) uuid: [u8; 16],
    pub(crate) reason: String,
}

impl fmt::Display for UnsupportedCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a pool with UUID {}, at offset {:#x}, of which {}",
            hyphenated(&self.uuid),
            self.first_page * PAGE_BYTES as u64,
            self.reason
        )
    }
}

impl UnsupportedCopy {
    /// The refusal of the pool that it is of.
    fn refusal(&self) -> NotPicked {
        NotPicked::Unsupported(format!("there is the superblock of {self}"))
    }
}

/// Copies that lie far from the beginning of the device, each where it says that it lies.
#[derive(Clone, Debug, Default)]
pub struct FarCopies {
    sound: Vec<SuperblockCopy>,
    unsupported: Vec<UnsupportedCopy>,
}

/// Why none of the copies is taken.
#[derive(Clone, Debug)]
pub(crate) enum NotPicked {
    /// There is no such pool, or there are several.
    Unclear(FarCopies),
    /// The pool's copies contradict each other.
    Conflict(ConflictingCopies),
    /// This program cannot use the pool, for this reason.
    Unsupported(String),
}

/// The copies of one pool.
struct PoolCopies<'a> {
    /// The sound ones, the newest first.
    sound: Vec<&'a SuperblockCopy>,
    unsupported: Vec<&'a UnsupportedCopy>,
}

impl FarCopies {
    pub(crate) fn is_empty(&self) -> bool {
        self.sound.is_empty() && self.unsupported.is_empty()
    }

    /// Adds what was read at this page, if it is a copy.
    pub(super) fn add(&mut self, first_page: u64, copy: &Result<Superblock, NoSuperblock>) {
        match copy {
            Ok(superblock) => self.sound.push(SuperblockCopy {
                first_page,
                superblock: superblock.clone(),
            }),
            Err(NoSuperblock::Unsupported(copy)) => self.unsupported.push(UnsupportedCopy {
                first_page,
                uuid: copy.uuid,
                reason: copy.reason.clone(),
            }),
            Err(_) => {}
        }
    }

    /// Whether it has a copy at this page.
    pub(super) fn has_page(&self, page: u64) -> bool {
        let sound = self.sound.iter().map(|copy| copy.first_page);
        let unsupported = self.unsupported.iter().map(|copy| copy.first_page);
        sound
            .chain(unsupported)
            .any(|first_page| first_page == page)
    }

    /// Refuses a pool that has a copy among those that this program cannot use.
    pub(super) fn see_that_none_is_of(&self, superblock: &Superblock) -> Result<(), NotPicked> {
        let mut copies = self.unsupported.iter();
        match copies.find(|copy| copy.uuid == superblock.uuid) {
            Some(copy) => Err(copy.refusal()),
            None => Ok(()),
        }
    }

    /// The UUIDs of the pools that these copies are of, each once.
    pub fn uuids(&self) -> Vec<[u8; 16]> {
        self.pools().iter().map(PoolCopies::uuid).collect()
    }

    /// The newest copy of the pool with this UUID, or of the only pool.
    ///
    /// # Errors
    /// See [`NotPicked`].
    pub(crate) fn pick(&self, uuid: Option<[u8; 16]>) -> Result<SuperblockCopy, NotPicked> {
        let mut pools = self.pools();
        pools.retain(|pool| uuid.is_none_or(|uuid| pool.has(uuid)));
        let [pool] = &pools[..] else {
            return Err(NotPicked::Unclear(self.clone()));
        };
        match (&pool.sound[..], &pool.unsupported[..]) {
            (_, [unsupported, ..]) => Err(unsupported.refusal()),
            (copies, _) if pool.is_in_conflict() => {
                let copies = copies.iter().map(|&copy| copy.clone()).collect();
                Err(NotPicked::Conflict(ConflictingCopies(copies)))
            }
            ([newest, ..], _) => Ok((*newest).clone()),
            ([], []) => Err(NotPicked::Unclear(self.clone())),
        }
    }

    fn pools(&self) -> Vec<PoolCopies<'_>> {
        let mut newest_first: Vec<&SuperblockCopy> = self.sound.iter().collect();
        newest_first.sort_by_key(|copy| Reverse(copy.superblock.generation));
        let mut pools: Vec<PoolCopies<'_>> = Vec::new();
        for copy in newest_first {
            let of_pool = |pool: &&mut PoolCopies<'_>| {
                let mut known = pool.sound.iter();
                known.any(|known| known.superblock.is_of_pool(&copy.superblock))
            };
            match pools.iter_mut().find(of_pool) {
                Some(pool) => pool.sound.push(copy),
                None => pools.push(PoolCopies {
                    sound: vec![copy],
                    unsupported: Vec::new(),
                }),
            }
        }
        for copy in &self.unsupported {
            match pools.iter_mut().find(|pool| pool.has(copy.uuid)) {
                Some(pool) => pool.unsupported.push(copy),
                None => pools.push(PoolCopies {
                    sound: Vec::new(),
                    unsupported: vec![copy],
                }),
            }
        }
        pools
    }
}

impl fmt::Display for FarCopies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pools: Vec<_> = self.pools().iter().map(ToString::to_string).collect();
        f.write_str(&pools.join(", and one of "))
    }
}

impl PoolCopies<'_> {
    fn uuid(&self) -> [u8; 16] {
        let unsupported = self.unsupported.iter().map(|copy| copy.uuid);
        let mut uuids = self
            .sound
            .iter()
            .map(|copy| copy.superblock.uuid)
            .chain(unsupported);
        uuids.next().unwrap_or_default()
    }

    fn has(&self, uuid: [u8; 16]) -> bool {
        self.sound.iter().any(|copy| copy.superblock.uuid == uuid)
            || self.unsupported.iter().any(|copy| copy.uuid == uuid)
    }

    /// Whether its copies name different far places.
    fn is_in_conflict(&self) -> bool {
        let far = |copy: &SuperblockCopy| copy.superblock.geometry.far;
        self.sound
            .windows(2)
            .any(|pair| far(pair[0]) != far(pair[1]))
    }
}

impl fmt::Display for PoolCopies<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.sound[..], &self.unsupported[..]) {
            (_, [unsupported, ..]) => unsupported.fmt(f),
            ([newest, ..], _) if self.is_in_conflict() => {
                let places = conflict_of(self.sound.iter().copied());
                write!(f, "{}: {places}", named(newest))
            }
            ([newest, ..], _) => newest.fmt(f),
            ([], []) => Ok(()),
        }
    }
}

/// Which copies name which far place, in words.
fn conflict_of<'a>(copies: impl Iterator<Item = &'a SuperblockCopy>) -> String {
    let says = copies.map(|copy| {
        let far = copy.superblock.geometry.far.unwrap_or(0) * PAGE_BYTES as u64;
        format!("the one at offset {:#x} says {far:#x}", copy.offset())
    });
    says.collect::<Vec<_>>().join(", ")
}

/// Copies of one pool's superblock that name different far places. A pool has one, which never moves: the others are
/// data that was written to look like superblocks.
#[derive(Clone, Debug)]
pub struct ConflictingCopies(Vec<SuperblockCopy>);

impl ConflictingCopies {
    /// The bytes that the copies take at each of the places.
    pub fn places(&self) -> Vec<Range<u64>> {
        let mut places: BTreeMap<Option<u64>, Range<u64>> = BTreeMap::new();
        for copy in &self.0 {
            let end = copy.offset() + SUPERBLOCK_PAGES * PAGE_BYTES as u64;
            let far = copy.superblock.geometry.far;
            let place = places.entry(far).or_insert(copy.offset()..end);
            *place = place.start.min(copy.offset())..place.end.max(end);
        }
        places.into_values().collect()
    }
}

impl fmt::Display for ConflictingCopies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.first().map(named).unwrap_or_default();
        write!(
            f,
            "the copies of the superblock of {name} contradict each other about the pool's far place, so that some of \
             them are data of a block or were put there otherwise: {}",
            conflict_of(self.0.iter())
        )
    }
}

/// Superblocks of two pools on one device: one at the beginning, and one of another pool in the far place of that.
#[derive(Clone, Debug)]
pub struct TwoPools {
    pub(crate) near: SuperblockCopy,
    pub(crate) far: FarCopies,
}

impl TwoPools {
    /// The UUIDs of the pools: first that of the one at the beginning.
    pub fn uuids(&self) -> Vec<[u8; 16]> {
        let mut uuids = vec![self.near.superblock.uuid];
        uuids.extend(self.far.uuids());
        uuids
    }
}

impl fmt::Display for TwoPools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "at its beginning is the superblock of {}, and in the far place of that pool one of {}: one of them was \
             written over the other",
            self.near, self.far
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
