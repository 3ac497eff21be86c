//! Pools in memory: private pages of this process, given by the kernel when they are first
//! touched.
//!
//! Laws:
//! - No reference to pool memory or to a client's memory is ever formed: several workers, and the
//!   client, may touch the same bytes at the same time. They are only copied, as raw bytes.
//! - A range is checked against the pool's size before it is touched, though the caller has checked it.
//! - A worker zeroes at most a megabyte at a time, which takes as long as copying one.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;

use chimaera_bdev_allocator::failpoint::{Failpoint, may_panic};
use chimaera_bdev_allocator::prefetch;
use chimaera_bdev_proto::MEGABYTE;
use chimaera_chimod::{Activity, CreateContext, ModuleError, PerWorker, Worker};
use chimaera_fork::Mapping;
use chimaera_proto::Status;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};

use super::new_blocks::NewBlocks;
use super::stream;
use super::transfer::{Direction, Transfer};

/// Bytes of a coming read that are prefetched: enough for the processor to see where it goes. More would
/// evict what is being copied meanwhile.
const PREFETCHED_BYTES: u64 = 2 * LINE_BYTES as u64;
const LINE_BYTES: usize = 64;

/// The memory of a pool.
pub(crate) struct RamDevice {
    memory: NonNull<u8>,
    len_bytes: usize,
    /// Forked children do not have the mapping: while one lived, the kernel would copy for it each page that
    /// the pool's clients write.
    _mapping: Mapping,
    /// Whether long writes go past the caches.
    streams: bool,
    zeroing: PerWorker<VecDeque<Zeroing>>,
}

/// Blocks that a worker zeroes, a megabyte in each pass.
struct Zeroing {
    new: NewBlocks,
    /// So many are zeroed.
    done: usize,
}

// SAFETY: the memory belongs to the process, not to a thread, and is only accessed by raw copies
// within its bounds.
unsafe impl Send for RamDevice {}
// SAFETY: as above. Copies that meet on the same bytes mix them, which is what a device does
// with overlapping transfers; no reference and no type's invariant is involved.
unsafe impl Sync for RamDevice {}

impl RamDevice {
    /// Reserves address space for a pool of this size; memory is used as it is written.
    ///
    /// # Errors
    /// [`Status::OutOfMemory`] if there is not that much address space.
    pub(crate) fn new(context: &CreateContext<'_>, total_size: u64) -> Result<Self, ModuleError> {
        let refused = |cause: &dyn std::fmt::Display| {
            ModuleError::new(
                Status::OutOfMemory,
                format!(
                    "no room for a memory pool of {total_size} bytes: {cause}; give a smaller \
                     size, or raise the limit on the runtime's address space (`ulimit -v`)"
                ),
            )
        };
        let length = usize::try_from(total_size)
            .ok()
            .and_then(NonZeroUsize::new)
            .ok_or_else(|| refused(&"it is not a possible size of memory"))?;
        let map = || {
            let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
            // SAFETY: a new private mapping at an address of the kernel's choice touches nothing
            // that exists.
            Ok(unsafe { mmap_anonymous(None, length, protection, flags) }?.cast())
        };
        // SAFETY: pools are whole pages, and the mapping stays with this value, which copies within it
        // as long as it lives.
        let mapping = unsafe { Mapping::new(length.get(), map) };
        let mapping = mapping.map_err(|error| refused(&error))?;
        let memory = mapping.address();
        // Only a hint: without huge pages the pool is slower, and nothing else.
        // SAFETY: the range is the mapping just made; this advice does not change its contents.
        let _ = unsafe { madvise(memory.cast(), length.get(), MmapAdvise::MADV_HUGEPAGE) };
        // What clients store is not for whoever looks at a core dump.
        // SAFETY: as above.
        let kept_out = unsafe { madvise(memory.cast(), length.get(), MmapAdvise::MADV_DONTDUMP) };
        kept_out.map_err(|errno| refused(&errno))?;
        // SAFETY: the value becomes a part of the container that the context is for, which reaches it only from its own
        // calls on workers.
        let zeroing =
            unsafe { PerWorker::try_new(context, |_| Ok::<_, Infallible>(VecDeque::new())) };
        let zeroing = zeroing.unwrap_or_else(|never| match never {});
        Ok(Self {
            memory,
            len_bytes: length.get(),
            _mapping: mapping,
            streams: stream::pays_off(total_size),
            zeroing,
        })
    }

    /// Zeroes new blocks, at once if that is no more than a megabyte and else in later passes, and calls `finished`.
    pub(crate) fn zero(
        &self,
        worker: &mut Worker<'_>,
        new: NewBlocks,
        finished: impl FnOnce(NewBlocks),
    ) -> Activity {
        if new.bytes() > MEGABYTE {
            let zeroing = self.zeroing.get_mut(worker);
            zeroing.push_back(Zeroing { new, done: 0 });
            return Activity::PENDING;
        }
        new.ranges()
            .into_iter()
            .for_each(|range| self.fill_with_zeroes(range));
        finished(new);
        Activity::IDLE
    }

    /// Zeroes a block of the allocation whose turn it is, and calls `finished` if it was its last one.
    pub(crate) fn poll(
        &self,
        worker: &mut Worker<'_>,
        finished: impl FnOnce(NewBlocks),
    ) -> Activity {
        let zeroing = self.zeroing.get_mut(worker);
        let Some(mut first) = zeroing.pop_front() else {
            return Activity::IDLE;
        };
        let blocks = first.new.unborn.blocks();
        let block = blocks[first.done];
        self.fill_with_zeroes(block.offset..block.offset + block.size);
        first.done += 1;
        match first.done < blocks.len() {
            // Behind the others, so that a large allocation does not hold up small ones.
            true => zeroing.push_back(first),
            false => finished(first.new),
        }
        match zeroing.is_empty() {
            true => Activity::PROGRESS,
            false => Activity::PENDING | Activity::PROGRESS,
        }
    }

    /// Not by `MADV_DONTNEED`: that splits huge pages, and the next write would fault page by page, which takes ten
    /// times as long as writing zeroes.
    ///
    /// # Panics
    /// If the range does not lie within the pool: the allocator gave it.
    fn fill_with_zeroes(&self, range: Range<u64>) {
        assert!(range.start <= range.end && range.end <= self.len_bytes as u64);
        // SAFETY: the range lies within the mapping, as just checked, and that is mapped until `self` is dropped. No
        // reference to it exists; nobody else is to touch it, and whoever did would find plain data.
        unsafe {
            let start = self.memory.as_ptr().add(range.start as usize);
            std::ptr::write_bytes(start, 0, (range.end - range.start) as usize);
        }
    }

    /// Prefetches the first lines of a read from this offset: the processor notices by itself that lines are
    /// read in order, but not before it has waited for the first of them.
    #[inline]
    pub(crate) fn prefetch(&self, offset_in_pool: u64) {
        let end = offset_in_pool.saturating_add(PREFETCHED_BYTES);
        if end <= self.len_bytes as u64 {
            for at in (offset_in_pool..end).step_by(LINE_BYTES) {
                prefetch::line(self.memory.as_ptr().wrapping_add(at as usize));
            }
        }
    }

    /// Copies between the pool and the transfer's buffer.
    ///
    /// # Panics
    /// If the transfer does not lie within the pool: the caller checked it.
    pub(crate) fn copy(&self, transfer: &Transfer) {
        may_panic(Failpoint::Copy);
        let len = transfer.len_bytes as usize;
        let offset = usize::try_from(transfer.offset_in_pool)
            .ok()
            .filter(|offset| {
                offset
                    .checked_add(len)
                    .is_some_and(|end| end <= self.len_bytes)
            })
            .expect("a checked transfer lies within the pool");
        // SAFETY: `offset..offset + len` lies within the mapping, as just checked.
        let inside = unsafe { self.memory.as_ptr().add(offset) };
        let request = &transfer.request;
        let ends: Option<(*const u8, *mut u8)> = match transfer.direction {
            Direction::Read => {
                let buffer = request.writable_buffer();
                buffer.map(|buffer| (inside.cast_const(), buffer.as_mut_ptr()))
            }
            Direction::Write => request.buffer().map(|buffer| (buffer.as_ptr(), inside)),
        };
        if let Some((source, target)) = ends {
            // SAFETY: both ranges are mapped for `len` bytes, which is the buffer's length: the
            // pool's until `self` is dropped, the client's until its request completes, which
            // `transfer` holds. They do not overlap, because the pool's mapping is private to
            // this value. Bytes that somebody else changes meanwhile may arrive in any mixture;
            // they are plain data to both sides.
            unsafe {
                if self.streams
                    && len >= stream::MIN_BYTES
                    && transfer.direction == Direction::Write
                {
                    stream::copy(source, target, len);
                } else {
                    std::ptr::copy_nonoverlapping(source, target, len);
                }
            }
        }
    }
}
