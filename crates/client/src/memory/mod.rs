//! Where buffers lie: segments, divided among threads.
//!
//! Laws of this module:
//! - No two extents that are allocated at the same time overlap, and each is aligned as
//!   promised: extents are whole units of a region, and a region begins at a multiple of its unit.
//! - Threads do not queue for one lock: each allocates from the shard that its number falls on.
//!   A freed extent goes back to the shard that it came from. What is too large for a shard's
//!   regions comes from the segments themselves.
//! - Segments are registered one at a time. Whoever does holds a lock for that ([`Memory::growing`]) for as long
//!   as the daemon takes, and no other one meanwhile: only who wants a segment, too, waits for it. All other
//!   locks are held for moments, and none of them while another is taken.
//! - An index is given to one segment only, as far as the daemon can know: a segment for which it was asked
//!   keeps its index until the daemon has it or refuses it.
//! - A segment stays mapped as long as the memory lives, which every buffer shares.
//!
//! `offset-allocator` rounds: a free range is filed under the bin below its size, a request is
//! looked for from the bin above its own. So a range can serve a request of exactly its size only
//! if that is a bin's size, which is why regions and segments have such sizes. Its nodes are
//! limited; a region of `n` units never needs more than `n` of them, and one that the allocator
//! keeps back, so a region has no other limit than its space.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use chimaera_fork::Home;
use chimaera_proto::Status;
use chimaera_proto::limits::{DATA_OFFSET_BYTES, MAX_SEGMENT_BYTES, MAX_SEGMENTS};
use chimaera_shm::Segment;
use crossbeam::utils::CachePadded;
use offset_allocator::{Allocation, Allocator};

use crate::control::Undone;
use crate::error::Error;
use crate::reentrancy::{Mutex, refuse_inside};

/// Shards, a power of two; more threads than these share some.
const SHARDS: usize = 32;

/// Unit in which segments are divided: 64 KiB.
const SEGMENT_UNIT_BYTES: u64 = 64 << 10;

/// What is larger than this does not come from a shard.
const MOST_FROM_A_SHARD: u64 = 1 << 20;

/// Ranges of a segment in use at the same time; a segment beyond that counts as full.
const MOST_NODES: u64 = 1 << 16;

/// The two kinds of regions in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// For less than a page: aligned to cache lines.
    Lines,
    /// For a page and more: aligned to pages.
    Pages,
}

impl Class {
    const fn unit_bytes(self) -> u64 {
        match self {
            Self::Lines => 64,
            Self::Pages => 4096,
        }
    }

    const fn region_bytes(self) -> u64 {
        match self {
            Self::Lines => 256 << 10,
            Self::Pages => 8 << 20,
        }
    }

    const fn region_units(self) -> u32 {
        (self.region_bytes() / self.unit_bytes()) as u32
    }
}

const _: () = {
    // Offsets and nodes are 16 bits wide in a region, and its size is a bin's.
    assert!(Class::Lines.region_units() < 1 << 15 && Class::Lines.region_units().is_power_of_two());
    assert!(Class::Pages.region_units() < 1 << 15 && Class::Pages.region_units().is_power_of_two());
    assert!((DATA_OFFSET_BYTES as u64).is_multiple_of(SEGMENT_UNIT_BYTES));
    assert!(MAX_SEGMENT_BYTES / SEGMENT_UNIT_BYTES < u32::MAX as u64);
    assert!(MOST_FROM_A_SHARD * 4 <= Class::Pages.region_bytes());
};

/// A range of a segment that belongs to one buffer.
pub(crate) struct Extent {
    pub(crate) segment: u8,
    pub(crate) offset_bytes: u64,
    pub(crate) len_bytes: u64,
    place: Place,
}

/// Who gave an extent, and takes it back.
enum Place {
    Shard {
        shard: u16,
        class: Class,
        region: u32,
        allocation: Allocation<u16>,
    },
    Segment(Allocation<u32>),
}

/// Registers a segment with the daemon under an index. It may be registered already. The time is when its caller began to
/// wait.
pub(crate) type Register<'a> = &'a dyn Fn(usize, &Segment, Instant) -> Result<(), Undone>;

/// All memory of one session.
pub(crate) struct Memory {
    /// The process that has it. In any other nothing of it is touched.
    home: Home,
    segments: [OnceLock<Arc<Segment>>; MAX_SEGMENTS],
    /// The ranges of the segments that the daemon has.
    spaces: Mutex<Vec<Space>>,
    growing: Mutex<Growing>,
    shards: Box<[CachePadded<Mutex<Shard>>]>,
    growth_bytes: u64,
}

/// Held by who registers a segment.
#[derive(Default)]
struct Growing {
    /// The daemon was asked to register it under the next index, and did not say that it did, nor that
    /// it will not. Until it does, no other segment can have that index.
    unsettled: Option<Segment>,
}

/// The free and used ranges of a segment.
struct Space {
    base_bytes: u64,
    allocator: Allocator<u32>,
}

#[derive(Default)]
struct Shard {
    lines: Regions,
    pages: Regions,
}

/// A shard's regions of one class. A place in the list is used again when its region went.
#[derive(Default)]
struct Regions {
    list: Vec<Option<Region>>,
    /// Where something was last found or freed.
    likely: usize,
    /// A region that was empty when it was last looked at: it is kept, a second one goes.
    spare: Option<usize>,
}

struct Region {
    extent: Extent,
    allocator: Allocator<u16>,
    used: u32,
}

impl Memory {
    /// The memory of a session whose first segment is `first`.
    pub(crate) fn new(home: Home, first: Arc<Segment>, growth_bytes: u64) -> Self {
        let space = Space::new(&first, DATA_OFFSET_BYTES as u64);
        let memory = Self {
            home,
            segments: [const { OnceLock::new() }; MAX_SEGMENTS],
            spaces: Mutex::new(vec![space]),
            growing: Mutex::default(),
            shards: (0..SHARDS).map(|_| CachePadded::default()).collect(),
            growth_bytes,
        };
        let _ = memory.segments[0].set(first);
        memory
    }

    /// The segment in which an extent of this memory lies.
    pub(crate) fn segment(&self, index: u8) -> &Segment {
        self.segments[usize::from(index)]
            .get()
            .expect("an extent lies in a segment that is there")
    }

    /// Whether this is the session's process.
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        self.home.is_here()
    }

    /// Allocates at least `len_bytes`: aligned to 4096 from that length on, else to 64.
    pub(crate) fn allocate(&self, len_bytes: u64, register: Register<'_>) -> Result<Extent, Error> {
        if !self.is_here() {
            return Err(Error::forked(format_args!(
                "allocating {len_bytes} bytes of shared memory"
            )));
        }
        refuse_inside(format_args!(
            "allocating {len_bytes} bytes of shared memory"
        ))?;
        if len_bytes > MOST_FROM_A_SHARD {
            return self.allocate_range(len_bytes, register);
        }
        let class = if len_bytes < Class::Pages.unit_bytes() {
            Class::Lines
        } else {
            Class::Pages
        };
        let units = len_bytes.div_ceil(class.unit_bytes()).max(1) as u32;
        let shard = thread_number() % SHARDS;
        if let Some(extent) = self.shards[shard].lock().allocate(shard, class, units) {
            return Ok(extent);
        }
        let range = self.allocate_range(class.region_bytes(), register)?;
        let mut locked = self.shards[shard].lock();
        locked.regions(class).add(Region::new(range, class));
        Ok(locked
            .allocate(shard, class, units)
            .expect("a new region has room for all that comes from regions"))
    }

    /// Takes an extent back.
    pub(crate) fn free(&self, extent: Extent) {
        match extent.place {
            Place::Segment(allocation) => self.free_range(extent.segment, allocation),
            Place::Shard {
                shard,
                class,
                region,
                allocation,
            } => {
                let emptied = self.shards[usize::from(shard)]
                    .lock()
                    .regions(class)
                    .free(region as usize, allocation);
                if let Some(region) = emptied
                    && let Place::Segment(allocation) = region.extent.place
                {
                    self.free_range(region.extent.segment, allocation);
                }
            }
        }
    }

    fn free_range(&self, segment: u8, allocation: Allocation<u32>) {
        self.spaces.lock()[usize::from(segment)]
            .allocator
            .free(allocation);
    }

    /// Allocates a range of a segment, of a new one if need be.
    fn allocate_range(&self, len_bytes: u64, register: Register<'_>) -> Result<Extent, Error> {
        let operation = || format!("allocating {len_bytes} bytes of shared memory");
        let units = match u32::try_from(len_bytes.div_ceil(SEGMENT_UNIT_BYTES)) {
            Ok(units) if len_bytes <= MAX_SEGMENT_BYTES => units,
            _ => {
                return Err(
                    Error::new(Status::OutOfMemory, operation()).with_detail(format!(
                        "a buffer has at most {MAX_SEGMENT_BYTES} bytes; use several"
                    )),
                );
            }
        };
        if let Some(extent) = find_room(&mut self.spaces.lock(), units) {
            return Ok(extent);
        }
        let since = Instant::now();
        let mut growing = self.growing.lock();
        let register = &|index, segment: &Segment| register(index, segment, since);
        // At most an unsettled segment, which may be too small, and one that is large enough.
        for _ in 0..2 {
            // There may be room since somebody freed some, or has just added a segment.
            if let Some(extent) = find_room(&mut self.spaces.lock(), units) {
                return Ok(extent);
            }
            if let Some(extent) = self.grow(&mut growing, units, register, &operation)? {
                return Ok(extent);
            }
        }
        Err(Error::new(Status::OutOfMemory, operation()))
    }

    /// Adds a segment, one that has room for so many units, or the one that is unsettled. Gives so many units of
    /// it if there are.
    fn grow(
        &self,
        growing: &mut Growing,
        units: u32,
        register: &dyn Fn(usize, &Segment) -> Result<(), Undone>,
        operation: &dyn Fn() -> String,
    ) -> Result<Option<Extent>, Error> {
        // Only who grows adds one.
        let index = self.spaces.lock().len();
        if index == MAX_SEGMENTS {
            return Err(
                Error::new(Status::OutOfMemory, operation()).with_detail(format!(
                    "all {MAX_SEGMENTS} segments of this connection are full; drop buffers, or \
                 connect with larger segments"
                )),
            );
        }
        let segment = match growing.unsettled.take() {
            Some(segment) => segment,
            None => {
                let len = self
                    .growth_bytes
                    .max(round_up_to_bin(units) * SEGMENT_UNIT_BYTES)
                    .min(MAX_SEGMENT_BYTES);
                Segment::create("chimaera-buffers", len)
                    .map_err(|error| Error::segment(&error, len, operation()))?
            }
        };
        match register(index, &segment) {
            Ok(()) => {}
            Err(undone) => {
                if !undone.is_settled {
                    growing.unsettled = Some(segment);
                }
                return Err(undone.error);
            }
        }
        let space = Space::new(&segment, 0);
        // Before anybody has an extent of it.
        let _ = self.segments[index].set(Arc::new(segment));
        let mut spaces = self.spaces.lock();
        spaces.push(space);
        // Before anybody else has.
        Ok(spaces[index].allocate(index, units))
    }
}

fn find_room(spaces: &mut [Space], units: u32) -> Option<Extent> {
    // The newest has most room.
    let mut spaces = spaces.iter_mut().enumerate().rev();
    spaces.find_map(|(index, space)| space.allocate(index, units))
}

impl Space {
    fn new(segment: &Segment, base_bytes: u64) -> Self {
        let units = (segment.len() - base_bytes) / SEGMENT_UNIT_BYTES;
        let nodes = units.min(MOST_NODES) as u32 + 2;
        Self {
            base_bytes,
            allocator: Allocator::with_max_allocs(units as u32, nodes),
        }
    }

    /// Some units of this space, which is that of the segment with this index.
    fn allocate(&mut self, index: usize, units: u32) -> Option<Extent> {
        let allocation = self.allocator.allocate(units)?;
        Some(Extent {
            segment: index as u8,
            offset_bytes: self.base_bytes + u64::from(allocation.offset) * SEGMENT_UNIT_BYTES,
            len_bytes: u64::from(units) * SEGMENT_UNIT_BYTES,
            place: Place::Segment(allocation),
        })
    }
}

impl Shard {
    fn regions(&mut self, class: Class) -> &mut Regions {
        match class {
            Class::Lines => &mut self.lines,
            Class::Pages => &mut self.pages,
        }
    }

    fn allocate(&mut self, shard: usize, class: Class, units: u32) -> Option<Extent> {
        let (index, allocation) = self.regions(class).allocate(units)?;
        let region = &self.regions(class).list[index].as_ref()?.extent;
        Some(Extent {
            segment: region.segment,
            offset_bytes: region.offset_bytes + u64::from(allocation.offset) * class.unit_bytes(),
            len_bytes: u64::from(units) * class.unit_bytes(),
            place: Place::Shard {
                shard: shard as u16,
                class,
                region: index as u32,
                allocation,
            },
        })
    }
}

impl Regions {
    fn allocate(&mut self, units: u32) -> Option<(usize, Allocation<u16>)> {
        let count = self.list.len();
        let found = (self.likely..self.likely + count)
            .map(|step| step % count)
            .find_map(|index| {
                let region = self.list[index].as_mut()?;
                let allocation = region.allocator.allocate(units)?;
                region.used += 1;
                Some((index, allocation))
            })?;
        self.likely = found.0;
        Some(found)
    }

    fn add(&mut self, region: Region) {
        self.likely = match self.list.iter().position(Option::is_none) {
            Some(place) => {
                self.list[place] = Some(region);
                place
            }
            None => {
                self.list.push(Some(region));
                self.list.len() - 1
            }
        };
    }

    /// Frees, and gives the region back that has become one empty region too many.
    fn free(&mut self, index: usize, allocation: Allocation<u16>) -> Option<Region> {
        let region = self.list[index].as_mut().expect("a region in use stays");
        region.allocator.free(allocation);
        region.used -= 1;
        self.likely = index;
        if region.used != 0 {
            return None;
        }
        match self.spare {
            Some(spare) if spare != index && self.is_empty_region(spare) => self.list[index].take(),
            _ => {
                self.spare = Some(index);
                None
            }
        }
    }

    fn is_empty_region(&self, index: usize) -> bool {
        self.list[index]
            .as_ref()
            .is_some_and(|region| region.used == 0)
    }
}

impl Region {
    fn new(extent: Extent, class: Class) -> Self {
        let units = class.region_units();
        Self {
            extent,
            allocator: Allocator::with_max_allocs(units, units + 2),
            used: 0,
        }
    }
}

/// The smallest size of a bin that holds this many units: bins have three bits of mantissa.
fn round_up_to_bin(units: u32) -> u64 {
    let step = 1u64 << units.checked_ilog2().unwrap_or(0).saturating_sub(3);
    u64::from(units).next_multiple_of(step)
}

/// A number that no other thread has.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(0) };
    }
    match NUMBER.get() {
        0 => {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            NUMBER.set(number);
            number
        }
        number => number,
    }
}
