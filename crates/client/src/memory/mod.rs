//! Where buffers lie: segments, divided among threads.
//!
//! Laws of this module:
//! - No two chunks that are allocated at the same time overlap, and each is aligned as
//!   promised: chunks are whole units of a region, and a region begins at a multiple of its unit.
//! - Threads do not queue for one lock: each allocates from the arena that its number falls on.
//!   A freed chunk goes back to the arena that it came from. What is too large for a arena's
//!   regions comes from the segments themselves.
//! - Segments are registered one at a time. Whoever does holds a lock for that ([`BufferMemory::growing`]) for as long
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

use crate::control::RequestError;
use crate::error::Error;
use crate::reentrancy::{Mutex, refuse_inside};

/// Arenas, a power of two; more threads than these share some.
const ARENAS: usize = 32;

/// Unit in which segments are divided: 64 KiB.
const SEGMENT_UNIT_BYTES: u64 = 64 << 10;

/// What is larger than this does not come from a arena.
const MAX_ARENA_BYTES: u64 = 1 << 20;

/// Ranges of a segment in use at the same time; a segment beyond that counts as full.
const MAX_NODES: u64 = 1 << 16;

/// The two kinds of regions in a arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SizeClass {
    /// For less than a page: aligned to cache lines.
    Lines,
    /// For a page and more: aligned to pages.
    Pages,
}

impl SizeClass {
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
    assert!(
        SizeClass::Lines.region_units() < 1 << 15
            && SizeClass::Lines.region_units().is_power_of_two()
    );
    assert!(
        SizeClass::Pages.region_units() < 1 << 15
            && SizeClass::Pages.region_units().is_power_of_two()
    );
    assert!((DATA_OFFSET_BYTES as u64).is_multiple_of(SEGMENT_UNIT_BYTES));
    assert!(MAX_SEGMENT_BYTES / SEGMENT_UNIT_BYTES < u32::MAX as u64);
    assert!(MAX_ARENA_BYTES * 4 <= SizeClass::Pages.region_bytes());
};

/// A range of a segment that belongs to one buffer.
pub(crate) struct BufferChunk {
    pub(crate) segment: u8,
    pub(crate) offset_bytes: u64,
    pub(crate) len_bytes: u64,
    origin: ChunkOrigin,
}

/// Who gave a chunk, and takes it back.
enum ChunkOrigin {
    Arena {
        arena: u16,
        class: SizeClass,
        region: u32,
        allocation: Allocation<u16>,
    },
    Segment(Allocation<u32>),
}

/// Registers a segment with the daemon under an index. It may be registered already. The time is when its caller began to
/// wait.
pub(crate) type RegisterSegment<'a> =
    &'a dyn Fn(usize, &Segment, Instant) -> Result<(), RequestError>;

/// All memory of one session.
pub(crate) struct BufferMemory {
    /// The process that has it. In any other nothing of it is touched.
    home: Home,
    segments: [OnceLock<Arc<Segment>>; MAX_SEGMENTS],
    /// The ranges of the segments that the daemon has.
    spaces: Mutex<Vec<SegmentSpace>>,
    growing: Mutex<Growing>,
    arenas: Box<[CachePadded<Mutex<Arena>>]>,
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
struct SegmentSpace {
    base_bytes: u64,
    allocator: Allocator<u32>,
}

#[derive(Default)]
struct Arena {
    lines: Regions,
    pages: Regions,
}

/// A arena's regions of one class. A origin in the list is used again when its region went.
#[derive(Default)]
struct Regions {
    list: Vec<Option<Region>>,
    /// Where something was last found or freed.
    likely: usize,
    /// A region that was empty when it was last looked at: it is kept, a second one goes.
    spare: Option<usize>,
}

struct Region {
    chunk: BufferChunk,
    allocator: Allocator<u16>,
    used: u32,
}

impl BufferMemory {
    /// The memory of a session whose first segment is `first`.
    pub(crate) fn new(home: Home, first: Arc<Segment>, growth_bytes: u64) -> Self {
        let space = SegmentSpace::new(&first, DATA_OFFSET_BYTES as u64);
        let memory = Self {
            home,
            segments: [const { OnceLock::new() }; MAX_SEGMENTS],
            spaces: Mutex::new(vec![space]),
            growing: Mutex::default(),
            arenas: (0..ARENAS).map(|_| CachePadded::default()).collect(),
            growth_bytes,
        };
        let _ = memory.segments[0].set(first);
        memory
    }

    /// The segment in which a chunk of this memory lies.
    pub(crate) fn segment(&self, index: u8) -> &Segment {
        self.segments[usize::from(index)]
            .get()
            .expect("a chunk lies in a segment that is there")
    }

    /// Whether this is the session's process.
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        self.home.is_here()
    }

    /// Allocates at least `len_bytes`: aligned to 4096 from that length on, else to 64.
    pub(crate) fn allocate(
        &self,
        len_bytes: u64,
        register: RegisterSegment<'_>,
    ) -> Result<BufferChunk, Error> {
        if !self.is_here() {
            return Err(Error::forked(format_args!(
                "allocating {len_bytes} bytes of shared memory"
            )));
        }
        refuse_inside(format_args!(
            "allocating {len_bytes} bytes of shared memory"
        ))?;
        if len_bytes > MAX_ARENA_BYTES {
            return self.allocate_range(len_bytes, register);
        }
        let class = if len_bytes < SizeClass::Pages.unit_bytes() {
            SizeClass::Lines
        } else {
            SizeClass::Pages
        };
        let units = len_bytes.div_ceil(class.unit_bytes()).max(1) as u32;
        let arena = thread_number() % ARENAS;
        if let Some(chunk) = self.arenas[arena].lock().allocate(arena, class, units) {
            return Ok(chunk);
        }
        let range = self.allocate_range(class.region_bytes(), register)?;
        let mut locked = self.arenas[arena].lock();
        locked.regions(class).add(Region::new(range, class));
        Ok(locked
            .allocate(arena, class, units)
            .expect("a new region has room for all that comes from regions"))
    }

    /// Takes a chunk back.
    pub(crate) fn free(&self, chunk: BufferChunk) {
        match chunk.origin {
            ChunkOrigin::Segment(allocation) => self.free_range(chunk.segment, allocation),
            ChunkOrigin::Arena {
                arena,
                class,
                region,
                allocation,
            } => {
                let emptied = self.arenas[usize::from(arena)]
                    .lock()
                    .regions(class)
                    .free(region as usize, allocation);
                if let Some(region) = emptied
                    && let ChunkOrigin::Segment(allocation) = region.chunk.origin
                {
                    self.free_range(region.chunk.segment, allocation);
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
    fn allocate_range(
        &self,
        len_bytes: u64,
        register: RegisterSegment<'_>,
    ) -> Result<BufferChunk, Error> {
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
        if let Some(chunk) = find_room(&mut self.spaces.lock(), units) {
            return Ok(chunk);
        }
        let since = Instant::now();
        let mut growing = self.growing.lock();
        let register = &|index, segment: &Segment| register(index, segment, since);
        // At most an unsettled segment, which may be too small, and one that is large enough.
        for _ in 0..2 {
            // There may be room since somebody freed some, or has just added a segment.
            if let Some(chunk) = find_room(&mut self.spaces.lock(), units) {
                return Ok(chunk);
            }
            if let Some(chunk) = self.grow(&mut growing, units, register, &operation)? {
                return Ok(chunk);
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
        register: &dyn Fn(usize, &Segment) -> Result<(), RequestError>,
        operation: &dyn Fn() -> String,
    ) -> Result<Option<BufferChunk>, Error> {
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
            Err(error) => {
                if !error.is_settled {
                    growing.unsettled = Some(segment);
                }
                return Err(error.error);
            }
        }
        let space = SegmentSpace::new(&segment, 0);
        // Before anybody has a chunk of it.
        let _ = self.segments[index].set(Arc::new(segment));
        let mut spaces = self.spaces.lock();
        spaces.push(space);
        // Before anybody else has.
        Ok(spaces[index].allocate(index, units))
    }
}

fn find_room(spaces: &mut [SegmentSpace], units: u32) -> Option<BufferChunk> {
    // The newest has most room.
    let mut spaces = spaces.iter_mut().enumerate().rev();
    spaces.find_map(|(index, space)| space.allocate(index, units))
}

impl SegmentSpace {
    fn new(segment: &Segment, base_bytes: u64) -> Self {
        let units = (segment.len() - base_bytes) / SEGMENT_UNIT_BYTES;
        let nodes = units.min(MAX_NODES) as u32 + 2;
        Self {
            base_bytes,
            allocator: Allocator::with_max_allocs(units as u32, nodes),
        }
    }

    /// Some units of this space, which is that of the segment with this index.
    fn allocate(&mut self, index: usize, units: u32) -> Option<BufferChunk> {
        let allocation = self.allocator.allocate(units)?;
        Some(BufferChunk {
            segment: index as u8,
            offset_bytes: self.base_bytes + u64::from(allocation.offset) * SEGMENT_UNIT_BYTES,
            len_bytes: u64::from(units) * SEGMENT_UNIT_BYTES,
            origin: ChunkOrigin::Segment(allocation),
        })
    }
}

impl Arena {
    fn regions(&mut self, class: SizeClass) -> &mut Regions {
        match class {
            SizeClass::Lines => &mut self.lines,
            SizeClass::Pages => &mut self.pages,
        }
    }

    fn allocate(&mut self, arena: usize, class: SizeClass, units: u32) -> Option<BufferChunk> {
        let (index, allocation) = self.regions(class).allocate(units)?;
        let region = &self.regions(class).list[index].as_ref()?.chunk;
        Some(BufferChunk {
            segment: region.segment,
            offset_bytes: region.offset_bytes + u64::from(allocation.offset) * class.unit_bytes(),
            len_bytes: u64::from(units) * class.unit_bytes(),
            origin: ChunkOrigin::Arena {
                arena: arena as u16,
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
            Some(origin) => {
                self.list[origin] = Some(region);
                origin
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
    fn new(chunk: BufferChunk, class: SizeClass) -> Self {
        let units = class.region_units();
        Self {
            chunk,
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
