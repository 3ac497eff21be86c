//! Which units the device of a persistent pool may record as allocated, and which freed ones wait for a commit.
//!
//! The device has the state of the last commit, memory the present one. Units that the device may record as allocated
//! are called *recorded*. A free of recorded units leaves them *deferred*: nobody gets them until a commit has made the
//! free durable. Otherwise a crash could give a block back to its old owner with the next owner's data in it (law 14).
//!
//! The steps of a commit: [`Allocator::collect_changes`] takes the megabytes that have changed, and marks what is
//! allocated in them as recorded. The caller makes these changes durable. [`Allocator::settle`] then releases deferred
//! units that are recorded no longer. There is one commit at a time. If it fails, recorded units stay recorded.
//!
//! Laws:
//! - Recorded and deferred units change under the megabyte's lock alone.
//! - A change is visible in the live map before its megabyte is noted as changed, and a commit removes the
//!   note before it looks at the map. So no change is overlooked.
//! - No commit sees blocks dead whose free may yet be refused: it sees all blocks of a list dead or none
//!   ([`super::undecided`]).
//! - Units that were allocated and freed between two commits were never recorded, and wait for no commit.
//! - Deferred units count as free from their free on ([`super::free_space`]), since an allocation that waits for a
//!   commit gets them. A commit moves no number from one count to another, so reading the count waits for none.
use std::io;

use chimaera_bdev_proto::OwnerTag;

use crate::fit::Fill;
use crate::index::Index;
use crate::mapping::SparseArray;
use crate::sync::{AtomicU64, CachePadded, Ordering, Weakness, weakened};
use crate::{Allocator, FreeCompletion};
use chimaera_bdev_format::block_map::{
    MegabyteChange, MegabyteMap, Slot, UNIT_WORDS, UNITS, UnitMap,
};

/// How much one part of a commit has at most: it is held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitLimits {
    /// Megabytes that have changed.
    pub max_megabytes: usize,
    /// Blocks that were allocated since the last commit, each with its tag or none. They are listed only if tags are in
    /// use.
    pub max_tags: usize,
}

/// A part of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitPart {
    /// Megabytes that have changed, in order.
    pub changes: Vec<MegabyteChange>,
    /// Where the next part begins; `None` after the last.
    pub next: Option<usize>,
}

/// The recorded and deferred units of each megabyte, and the megabytes that have changed since the last commit.
pub(crate) struct Durability {
    shadows: SparseArray<Shadow>,
    /// Megabytes that have changed since the last commit.
    changed: Index,
    /// The number of deferred units.
    deferred_units: CachePadded<AtomicU64>,
}

/// The recorded and deferred units of a megabyte. All zero: it has none.
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Shadow {
    recorded: [AtomicU64; UNIT_WORDS],
    deferred: [AtomicU64; UNIT_WORDS],
}

impl Durability {
    /// A pool of `megabytes` of which the device records nothing.
    ///
    /// # Errors
    /// If there is no address space for it.
    pub(crate) fn new(megabytes: usize) -> io::Result<Self> {
        Ok(Self {
            shadows: SparseArray::new(megabytes)?,
            changed: Index::empty(megabytes)?,
            deferred_units: CachePadded::default(),
        })
    }

    /// Notes that a block of the megabyte was allocated or freed, after its live bit has changed.
    #[inline]
    pub(crate) fn note_change(&self, index: usize) {
        self.changed.note(index);
    }

    /// Defers the units of a dead block, if they are recorded: then this module releases them, after a commit. `false`
    /// if they are not, and the caller can release them. The megabyte's lock is held.
    pub(crate) fn defer(&self, index: usize, slot: Slot) -> bool {
        let shadow = &self.shadows[index];
        let units = slot.units();
        let is_recorded =
            (load(&shadow.recorded).iter().zip(units)).any(|(recorded, mine)| recorded & mine != 0);
        if !is_recorded
            || chimaera_bdev_format::weakened(chimaera_bdev_format::CrashWeakness::SpaceReusedEarly)
        {
            return false;
        }
        let deferred = load(&shadow.deferred);
        store(
            &shadow.deferred,
            std::array::from_fn(|word| deferred[word] | units[word]),
        );
        // Acquire and release here and below order this with what becomes free: see `has_deferred`.
        self.deferred_units
            .fetch_add(count(&units), Ordering::AcqRel);
        true
    }

    /// Says which units of a megabyte the device records as allocated, when a pool is opened.
    pub(crate) fn set_recorded(&self, index: usize, units: UnitMap) {
        store(&self.shadows[index].recorded, units);
    }

    /// Bytes that are backed by memory now.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn resident_bytes(&self) -> usize {
        self.shadows.resident_bytes() + self.changed.resident_bytes()
    }
}

impl<C: FreeCompletion> Allocator<C> {
    /// The first part of a commit, from `first` = 0, or a later one: the megabytes from `first` on that have changed
    /// since the last commit, each with all that is allocated in it. No more than the limits say, save that the last
    /// megabyte's tags may exceed `max_tags`. Nothing if the pool is not persistent.
    pub fn collect_changes(&self, first: usize, limits: CommitLimits) -> CommitPart {
        let mut part = CommitPart {
            changes: Vec::new(),
            next: None,
        };
        let Some(durability) = &self.durability else {
            return part;
        };
        let asks_late = weakened(Weakness::AskTakenBackLast);
        if first == 0 && !asks_late {
            self.owner_tags.begin_commit();
        }
        let (mut start, mut tags) = (first, 0);
        while start < self.megabytes.len()
            && let Some(index) = durability.changed.find(start)
            && index >= start
        {
            if part.changes.len() >= limits.max_megabytes || tags >= limits.max_tags {
                part.next = Some(index);
                break;
            }
            let early = !weakened(Weakness::NoteTakenLast);
            if early {
                durability.changed.remove(index);
            }
            let change = self.collect(durability, index);
            tags += change.allocated.len();
            part.changes.push(change);
            if !early {
                durability.changed.remove(index);
            }
            start = index + 1;
        }
        if first == 0 && asks_late {
            self.owner_tags.begin_commit();
        }
        part
    }

    fn collect(&self, durability: &Durability, index: usize) -> MegabyteChange {
        let decided = !weakened(Weakness::UndecidedFreeCommitted);
        let _decided = decided.then(|| self.undecided.decided(self.threads));
        // Lives of blocks begin under the lock. Some may end meanwhile, which leaves a note for the next commit.
        let locked = self.megabytes[index].lock(self.threads);
        let map = self.megabytes[index].live_map();
        let shadow = &durability.shadows[index];
        let recorded = load(&shadow.recorded);
        let units = map.units().expect("live blocks lie apart");
        store(
            &shadow.recorded,
            std::array::from_fn(|word| recorded[word] | units[word]),
        );
        let allocated = if self.owner_tags.are_in_use() {
            let is_new = |slot: &Slot| {
                let unit = slot.first_unit();
                recorded[unit / 64] >> (unit % 64) & 1 == 0
            };
            map.blocks()
                .filter(is_new)
                .map(|slot| {
                    let unit = index as u64 * UNITS + slot.first_unit() as u64;
                    (unit, self.owner_tags.take(index, slot))
                })
                .collect()
        } else {
            Vec::new()
        };
        drop(locked);
        MegabyteChange {
            megabyte: index as u32,
            map,
            allocated,
        }
    }

    /// Ends a commit: these changes are durable.
    pub fn settle(&self, changes: &[MegabyteChange]) {
        let Some(durability) = &self.durability else {
            return;
        };
        for change in changes {
            let index = change.megabyte as usize;
            let shadow = &durability.shadows[index];
            let mut locked = self.megabytes[index].lock(self.threads);
            let recorded = change.map.units().expect("as it was collected");
            store(&shadow.recorded, recorded);
            let deferred = load(&shadow.deferred);
            let freed: UnitMap = std::array::from_fn(|word| deferred[word] & !recorded[word]);
            let units = count(&freed);
            if units > 0 {
                store(
                    &shadow.deferred,
                    std::array::from_fn(|word| deferred[word] & recorded[word]),
                );
                let uncounted = match weakened(Weakness::DeferredCountedLate) {
                    true => units,
                    false => 0,
                };
                self.release_units(index, &mut locked, (&freed, uncounted));
                durability.deferred_units.fetch_sub(units, Ordering::AcqRel);
            }
        }
    }

    /// Whether space waits for a commit: then an allocation that found no space may find some after the commit. If
    /// `false`, space that has waited can be found now.
    pub fn has_deferred(&self) -> bool {
        let durability = self.durability.as_ref();
        durability.is_some_and(|durability| durability.deferred_units.load(Ordering::Acquire) > 0)
    }

    /// Begins to take over the blocks that a device has. Call it before the first allocation.
    pub fn restoring(&self) -> Restoring<'_, C> {
        Restoring {
            allocator: self,
            next: 0,
            run: 0,
            populated: 0,
        }
    }

    fn restore(&self, index: usize, map: MegabyteMap) -> bool {
        let Some(units) = map.units().filter(|_| index < self.megabytes.len()) else {
            return false;
        };
        let megabyte = &self.megabytes[index];
        if self.wholes.contains(index) {
            let reserved = self.free_space.reserve(1, count(&units));
            debug_assert!(reserved, "a whole megabyte is counted as one");
            let fill = megabyte.restore_whole(map, &units);
            self.change_class(index, Fill::Empty, fill);
        } else {
            let mut locked = megabyte.lock(self.threads);
            let before = locked.fill();
            // A megabyte that seems empty and is not among the whole ones was withheld from end to end, for metadata.
            if before == Fill::Empty || !locked.reserve_units(&units) {
                return false;
            }
            self.free_space.take(count(&units));
            self.change_class(index, before, locked.fill());
            megabyte.restore_live(map);
        }
        if let Some(durability) = &self.durability {
            durability.set_recorded(index, units);
        }
        true
    }

    /// The blocks of a megabyte, in order. A block comes with its tag, or with `None` if a commit has taken the tag.
    pub fn list(&self, index: usize) -> Vec<(Slot, Option<OwnerTag>)> {
        if self.wholes.contains(index) {
            return Vec::new();
        }
        let _decided = self.undecided.decided(self.threads);
        let _locked = self.megabytes[index].lock(self.threads);
        let map = self.megabytes[index].live_map();
        let recorded = match &self.durability {
            Some(durability) => load(&durability.shadows[index].recorded),
            None => [0; UNIT_WORDS],
        };
        let tag = |slot: Slot| {
            let unit = slot.first_unit();
            let is_committed = recorded[unit / 64] >> (unit % 64) & 1 == 1;
            (!is_committed).then(|| self.owner_tags.get(index, slot))
        };
        let mut blocks: Vec<_> = map.blocks().map(|slot| (slot, tag(slot))).collect();
        blocks.sort_by_key(|(slot, _)| slot.first_unit());
        blocks
    }
}

/// Takes over the blocks that a device has, megabyte by megabyte.
pub struct Restoring<'a, C> {
    allocator: &'a Allocator<C>,
    /// The megabyte after the last one that was taken over.
    next: usize,
    /// How many megabytes followed one another up to there.
    run: usize,
    /// Memory was populated for the megabytes below this one.
    populated: usize,
}

/// Megabytes in a row after which more are expected to follow.
const RUN_MEGABYTES: usize = 256;
/// Megabytes whose memory is populated ahead then.
const AHEAD_MEGABYTES: usize = 8192;

impl<C: FreeCompletion> Restoring<'_, C> {
    /// Takes over the blocks of a megabyte, once. `false`, and nothing has changed, if the pool can have no such
    /// blocks.
    pub fn take_over(&mut self, index: usize, map: MegabyteMap) -> bool {
        self.run = if index == self.next { self.run + 1 } else { 0 };
        self.next = index + 1;
        if self.run >= RUN_MEGABYTES && index >= self.populated {
            self.populated = index + AHEAD_MEGABYTES;
            self.allocator.megabytes.populate(index..self.populated);
            if let Some(durability) = &self.allocator.durability {
                durability.shadows.populate(index..self.populated);
            }
        }
        self.allocator.restore(index, map)
    }
}

// Relaxed, because the megabyte's lock orders all accesses.
fn load(words: &[AtomicU64; UNIT_WORDS]) -> UnitMap {
    std::array::from_fn(|word| words[word].load(Ordering::Relaxed))
}

fn store(words: &[AtomicU64; UNIT_WORDS], bits: UnitMap) {
    for (word, bits) in words.iter().zip(bits) {
        word.store(bits, Ordering::Relaxed);
    }
}

fn count(units: &UnitMap) -> u64 {
    units.iter().map(|word| u64::from(word.count_ones())).sum()
}
