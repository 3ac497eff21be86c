//! The model: what a pool holds, and what may be found after a crash.

use std::collections::BTreeMap;
use std::rc::Rc;

use chimaera_bdev_proto::PerfMetrics;

use super::Numbers;
use super::disk::{DiskImage, SimulatedDisk};
use super::openings::Openings;
use crate::block_map::{MegabyteMap, Slot, UNITS};
use crate::check::check;
use crate::recovery::OpenedPool;
use crate::{Metadata, OpenError, OpenMode, PAGE_BYTES, open};

/// Begins each sector of simulated data.
const STAMP: &[u8; 8] = b"SIMDATA.";

/// The number of a block's life, from its allocation to its free: unique in a history, or 0 where lives are not told
/// apart.
pub type Life = u64;

/// Whose a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockOwner {
    /// The owner tag that it was allocated with, 0 for none.
    pub tag: u64,
    /// The block's life.
    pub life: Life,
}

/// The blocks of a megabyte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelMegabyte {
    /// Where they lie.
    pub map: MegabyteMap,
    /// By the first unit of each block, in the pool.
    pub owners: BTreeMap<u64, BlockOwner>,
}

/// What a pool holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelState {
    /// Pages of the pool.
    pub total_pages: u64,
    /// What is declared of the device, as a number.
    pub declared: u64,
    /// The megabytes that have blocks.
    pub megabytes: BTreeMap<u32, Rc<ModelMegabyte>>,
}

impl ModelState {
    /// Where the blocks of a megabyte lie.
    pub fn map(&self, megabyte: u32) -> MegabyteMap {
        self.megabytes
            .get(&megabyte)
            .map_or(MegabyteMap::EMPTY, |megabyte| megabyte.map)
    }

    /// Replaces the blocks of a megabyte.
    pub fn set(&mut self, number: u32, megabyte: ModelMegabyte) {
        if megabyte.map == MegabyteMap::EMPTY {
            self.megabytes.remove(&number);
        } else {
            self.megabytes.insert(number, Rc::new(megabyte));
        }
    }

    /// The blocks, by their first unit.
    pub fn blocks(&self) -> impl Iterator<Item = (u64, Slot, BlockOwner)> + '_ {
        self.megabytes.iter().flat_map(|(number, megabyte)| {
            megabyte.map.blocks().map(move |slot| {
                let unit = u64::from(*number) * UNITS + slot.first_unit() as u64;
                (unit, slot, megabyte.owners[&unit])
            })
        })
    }
}

/// Versions of a page of a block's data that may be found.
#[derive(Clone, Copy, Debug, Default)]
pub struct PageVersions {
    /// The oldest version that its sectors had at the last flush; 0 if none was flushed.
    pub flushed: u64,
    /// The oldest version that its sectors have now: after a crash they may differ.
    pub oldest: u64,
    /// The newest that was written.
    pub latest: u64,
}

/// The data of blocks: by life and page on the device.
pub type BlockData = BTreeMap<(Life, u64), PageVersions>;

/// The states, and the data in blocks, that may be found after a crash.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// The state that was made durable last.
    pub before: Rc<ModelState>,
    /// The state that is being made durable.
    pub after: Option<Rc<ModelState>>,
    /// Whether of `before` and `after` one or the other is found, and no mixture by megabytes.
    pub is_atomic: bool,
    /// Whether there may be no pool.
    pub may_be_absent: bool,
    /// The data that blocks may have.
    pub data: Rc<BlockData>,
    /// The pool's openings so far.
    pub openings: Openings,
}

impl Expected {
    /// This state, with this data, and nothing else.
    pub fn exactly(state: Rc<ModelState>, data: Rc<BlockData>) -> Self {
        Self {
            before: state,
            data,
            ..Self::default()
        }
    }

    /// The state that was found, if it is one that may be found.
    ///
    /// # Errors
    /// How what was found differs from each of them.
    pub fn admit(&self, found: &FoundPool, tags: TagComparison) -> Result<Rc<ModelState>, String> {
        let candidates: Vec<_> = [Some(&self.before), self.after.as_ref()]
            .into_iter()
            .flatten()
            .collect();
        let mut why = Vec::new();
        for candidate in &candidates {
            match found.compare(candidate, tags) {
                Ok(()) => return Ok(Rc::clone(candidate)),
                Err(text) => why.push(text),
            }
        }
        if let (Some(after), false) = (&self.after, self.is_atomic) {
            let mixture = found.mixture(&self.before, after);
            match found.compare(&mixture, tags) {
                Ok(()) => return Ok(Rc::new(mixture)),
                Err(text) => why.push(text),
            }
        }
        Err(why.join("; or: "))
    }

    /// Checks that each block of `state` has its own data, from the flushed version on.
    pub fn check_data(&self, image: &DiskImage, state: &ModelState) -> Result<(), String> {
        for (unit, slot, owner) in state.blocks() {
            let pages = unit..unit + crate::block_map::units_of(slot.block_type);
            for (&(_, page), versions) in self
                .data
                .range((owner.life, pages.start)..(owner.life, pages.end))
            {
                if versions.flushed == 0 {
                    continue;
                }
                for sector in 0..8 {
                    let found = read_stamp(&image.sector(page, sector));
                    let is_right = found.is_some_and(|(life, version)| {
                        life == owner.life
                            && (versions.flushed..=versions.latest).contains(&version)
                    });
                    if !is_right {
                        return Err(format!(
                            "page {page}, sector {sector}, of life {} has {found:?}, not a version \
                             of {versions:?}",
                            owner.life
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

/// How strictly tags are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagComparison {
    /// All must be right.
    Exact,
    /// Some may be unknown.
    OrUnknown,
}

/// Opens a pool for writing, always with the same history.
pub const WRITING: OpenMode = OpenMode::ReadWrite { history: 7 };

/// A pool that was opened.
pub struct FoundPool {
    /// The pool, ready for commits if it was opened for that.
    pub metadata: Metadata<SimulatedDisk>,
    /// The blocks, by megabyte.
    pub maps: BTreeMap<u32, MegabyteMap>,
    /// What opening says that it has repaired.
    pub repaired: Vec<String>,
    /// What opening says is lost.
    pub lost: Vec<String>,
    /// Records of the journal whose updates are not in the table yet.
    pub journal_records: u64,
}

impl FoundPool {
    /// Opens what is on a disk.
    ///
    /// # Errors
    /// See [`OpenError`]; also if a megabyte is found twice.
    pub fn open(disk: &SimulatedDisk, mode: OpenMode) -> Result<Self, OpenError> {
        let mut maps = BTreeMap::new();
        let mut twice = None;
        let mut found = |megabyte, map| {
            if maps.insert(megabyte, map).is_some() {
                twice = Some(megabyte);
            }
        };
        let OpenedPool {
            metadata,
            repaired,
            lost,
            journal_records,
            ..
        } = open(disk.clone(), mode, &mut found, &mut |_, _| {})?;
        assert_eq!(twice, None, "a megabyte was told of twice");
        Ok(Self {
            metadata,
            maps,
            repaired,
            lost,
            journal_records,
        })
    }

    fn compare(&self, state: &ModelState, tags: TagComparison) -> Result<(), String> {
        let total_pages = self.metadata.geometry().total_pages();
        if total_pages != state.total_pages {
            return Err(format!(
                "the pool has {total_pages} pages, not {}",
                state.total_pages
            ));
        }
        let declared = declared_by(&self.metadata.superblock().identity.metrics);
        if declared != state.declared {
            return Err(format!("{declared} is declared, not {}", state.declared));
        }
        let known = state.megabytes.iter();
        let expected = known.map(|(number, megabyte)| (number, &megabyte.map));
        if !expected.clone().eq(&self.maps) {
            let expected: BTreeMap<_, _> = expected.collect();
            let all = self.maps.keys().chain(state.megabytes.keys());
            let differs = all
                .copied()
                .find(|number| self.maps.get(number) != expected.get(number).copied());
            let number = differs.unwrap_or_default();
            return Err(format!(
                "megabyte {number} is {:x?}, not {:x?}",
                self.maps.get(&number),
                expected.get(&number)
            ));
        }
        for (number, megabyte) in &state.megabytes {
            self.compare_tags(*number, megabyte, tags)?;
        }
        Ok(())
    }

    fn compare_tags(
        &self,
        number: u32,
        megabyte: &ModelMegabyte,
        tags: TagComparison,
    ) -> Result<(), String> {
        let units: Vec<u64> = megabyte.owners.keys().copied().collect();
        let found = match self.metadata.tags(&units) {
            Ok(found) => found,
            Err(error) => return Err(format!("tags of megabyte {number}: {error}")),
        };
        let differs = megabyte
            .owners
            .iter()
            .zip(found)
            .find(|((_, owner), found)| match found {
                Some(found) => owner.tag != found.0,
                None => tags == TagComparison::Exact,
            });
        match differs {
            None => Ok(()),
            Some(((unit, owner), found)) => Err(format!(
                "the block at unit {unit} has tag {found:?}, not {}",
                owner.tag
            )),
        }
    }

    /// The state in which each megabyte is as in `before` or `after`, whichever was found.
    fn mixture(&self, before: &ModelState, after: &ModelState) -> ModelState {
        let mut mixture = after.clone();
        for number in before.megabytes.keys().chain(after.megabytes.keys()) {
            let found = self.maps.get(number).copied().unwrap_or(MegabyteMap::EMPTY);
            let same = [after, before].into_iter().find(|state| {
                let megabyte = state.megabytes.get(number).cloned().unwrap_or_default();
                megabyte.map == found
                    && self
                        .compare_tags(*number, &megabyte, TagComparison::Exact)
                        .is_ok()
            });
            if let Some(state) = same {
                let megabyte = state.megabytes.get(number).cloned().unwrap_or_default();
                mixture.set(*number, (*megabyte).clone());
            }
        }
        mixture
    }
}

impl Openings {
    /// Opens the pool on a disk for writing. If it has a mark, and may have one, it is repaired before.
    pub(super) fn open(
        &mut self,
        disk: &SimulatedDisk,
        numbers: &mut Numbers,
    ) -> Result<FoundPool, OpenError> {
        match FoundPool::open(disk, self.begin(numbers)) {
            Err(OpenError::Marked(_)) if self.may_be_marked() => {}
            opened => return opened,
        }
        let repair = self.begin_repair(numbers);
        let checked = check(disk, disk.total_pages(), Some(repair), &mut |_, _| {})?;
        if !checked.lost.is_empty() {
            return Err(OpenError::Damaged(checked.lost.join("; ")));
        }
        FoundPool::open(disk, self.begin(numbers))
    }
}

/// Characteristics that stand for a number; 0 for the default ones.
pub(super) fn declaration_of(number: u64) -> PerfMetrics {
    let default = PerfMetrics::default();
    PerfMetrics {
        iops: default.iops + number as f64,
        ..default
    }
}

fn declared_by(metrics: &PerfMetrics) -> u64 {
    (metrics.iops - PerfMetrics::default().iops) as u64
}

/// A page of data that says in each sector whose it is and which version.
pub fn stamped_page(life: Life, version: u64) -> [u8; PAGE_BYTES] {
    let mut bytes = [0; PAGE_BYTES];
    for sector in bytes.as_chunks_mut::<512>().0 {
        sector[..8].copy_from_slice(STAMP);
        sector[8..16].copy_from_slice(&life.to_le_bytes());
        sector[16..24].copy_from_slice(&version.to_le_bytes());
    }
    bytes
}

pub(super) fn read_stamp(sector: &[u8; 512]) -> Option<(Life, u64)> {
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| sector[at + byte]));
    (sector[..8] == *STAMP).then(|| (number(8), number(16)))
}
