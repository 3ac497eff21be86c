//! The memory of buffers: segments, divided into arenas and chunks.
//!
//! Laws of this module:
//! - No two chunks that are allocated at the same time overlap, and each is aligned as promised: a chunk is whole units
//!   of a region or segment, and those begin at a multiple of their unit.
//! - Threads do not queue for one lock: each allocates from the arena that its number falls on ([`arena`]). A chunk is
//!   freed in the arena that it came from. Chunks that are too large for an arena come from the segments themselves
//!   ([`segment_space`]).
//! - Segments are registered one at a time. The thread that registers one holds a lock for that
//!   ([`BufferMemory::growing`]) for as long as the daemon takes, and no other lock meanwhile: only threads that need a
//!   new segment, too, wait for it. All other locks are held for moments, and none of them while another is taken.
//! - The daemon gets one segment for each index: if it has not answered whether it registered a segment, that segment
//!   keeps its index until the daemon has registered or refused it.
//! - A segment stays mapped as long as this memory exists, which every buffer shares.

mod arena;
mod chunk;
mod segment_space;

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use chimaera_fork::Home;
use chimaera_proto::Status;
use chimaera_proto::limits::{DATA_OFFSET_BYTES, MAX_SEGMENT_BYTES, MAX_SEGMENTS};
use chimaera_shm::Segment;
use crossbeam::utils::CachePadded;
use offset_allocator::Allocation;

use self::arena::{Arena, MAX_ARENA_CHUNK_BYTES, Region};
pub(crate) use self::chunk::BufferChunk;
use self::chunk::{ChunkOrigin, SizeClass};
use self::segment_space::{SEGMENT_UNIT_BYTES, SegmentSpace, find_room, round_up_to_bin};
use crate::error::Error;
use crate::reentrancy::{Mutex, refuse_inside};
use crate::request_error::RequestError;

/// The number of arenas, a power of two. If there are more threads, some share an arena.
const ARENAS: usize = 32;

/// Registers a segment with the daemon under an index, under which it may be registered already. The time is when the
/// caller began to wait.
pub(crate) type RegisterSegment<'a> =
    &'a dyn Fn(usize, &Segment, Instant) -> Result<(), RequestError>;

/// All buffer memory of one connection.
pub(crate) struct BufferMemory {
    /// The process of the connection. No other process touches anything here.
    home: Home,
    segments: [OnceLock<Arc<Segment>>; MAX_SEGMENTS],
    /// The spaces of the segments that are registered.
    spaces: Mutex<Vec<SegmentSpace>>,
    growing: Mutex<Growing>,
    arenas: Box<[CachePadded<Mutex<Arena>>]>,
    growth_bytes: u64,
}

/// What the thread that registers a segment holds.
#[derive(Default)]
struct Growing {
    /// A segment that the daemon was asked to register under the next index, without having answered. Until it answers,
    /// no other segment can have that index.
    unsettled: Option<Segment>,
}

impl BufferMemory {
    /// The memory of a connection whose first segment is `first`.
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

    /// The segment with this index, in which a chunk of this memory lies.
    pub(crate) fn segment(&self, index: u8) -> &Segment {
        self.segments[usize::from(index)]
            .get()
            .expect("a chunk lies in a segment that is there")
    }

    /// Whether this is the connection's process.
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
        if len_bytes > MAX_ARENA_CHUNK_BYTES {
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

    /// Frees a chunk.
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
        self.spaces.lock()[usize::from(segment)].free(allocation);
    }

    /// Allocates a chunk of a segment itself, of a new segment if need be.
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
        // At most two segments are added: one that is unsettled and may be too small, and one that is large enough.
        for _ in 0..2 {
            // Another thread may have freed a chunk or added a segment meanwhile.
            if let Some(chunk) = find_room(&mut self.spaces.lock(), units) {
                return Ok(chunk);
            }
            if let Some(chunk) = self.grow(&mut growing, units, register, &operation)? {
                return Ok(chunk);
            }
        }
        Err(Error::new(Status::OutOfMemory, operation()))
    }

    /// Adds a segment: the one that is unsettled, or else a new one that has space for so many units. Allocates so many
    /// units of it, if it has them.
    fn grow(
        &self,
        growing: &mut Growing,
        units: u32,
        register: &dyn Fn(usize, &Segment) -> Result<(), RequestError>,
        operation: &dyn Fn() -> String,
    ) -> Result<Option<BufferChunk>, Error> {
        // Only the holder of `growing` adds one.
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
        // Before any chunk of it is allocated.
        let _ = self.segments[index].set(Arc::new(segment));
        let mut spaces = self.spaces.lock();
        spaces.push(space);
        // Under the same lock, before another thread allocates.
        Ok(spaces[index].allocate(index, units))
    }
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
