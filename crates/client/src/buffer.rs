//! Buffers in memory that the runtime can reach.
//!
//! Laws of this module:
//! - A [`Buffer`] owns its bytes alone. A task that may touch them either borrows the buffer until it has ended (a
//!   blocking call) or owns the buffer (a task handle). So nobody else uses a buffer that a caller holds.
//! - A task that transfers a part of a buffer which other tasks transfer parts of at the same time owns a **share**
//!   of the whole: no bytes, but the buffer is freed only when its last share is dropped.
//! - In a process that was forked from the buffer's own, the buffer's bytes are private memory of zeros, and nothing
//!   else of it is touched.
//! - The daemon touches only memory that tasks in flight name. A client trusts its daemon in this, as it trusts the
//!   kernel with the buffer of a `read`.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Bound, Deref, DerefMut, RangeBounds};
use std::ptr::NonNull;
use std::sync::Arc;

use chimaera_proto::{Access, BufferRange, Status};

use crate::error::Error;
use crate::memory::{BufferChunk, BufferMemory, RegisterSegment};
use crate::reentrancy::is_inside;

/// Bytes that the runtime can read and write in place. It is given back when it is dropped, on
/// any thread, also after the [`Runtime`](crate::Runtime) that it came from.
///
/// Dropped in a signal handler that has interrupted a call, it may stay taken ([the crate](crate#signal-handlers)).
pub struct Buffer {
    address: NonNull<u8>,
    len: usize,
    /// `Some` until drop.
    held: Option<HeldMemory>,
    memory: ManuallyDrop<Arc<BufferMemory>>,
}

/// What a buffer keeps allocated.
enum HeldMemory {
    /// Its own chunk.
    Chunk(BufferChunk),
    /// The buffer that it is a share of.
    Share(Arc<Buffer>),
}

// SAFETY: the buffer owns the bytes at `address` alone, as a `Box<[u8]>` would; its other fields are
// Send and Sync.
unsafe impl Send for Buffer {}
// SAFETY: as above; a shared buffer is only read.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub(crate) fn allocate(
        memory: &Arc<BufferMemory>,
        len: usize,
        register: RegisterSegment<'_>,
    ) -> Result<Self, Error> {
        let chunk = memory.allocate(len as u64, register)?;
        let address = memory
            .segment(chunk.segment)
            .range(chunk.offset_bytes, chunk.len_bytes)
            .expect("chunks lie in their segments");
        Ok(Self {
            address,
            len,
            held: Some(HeldMemory::Chunk(chunk)),
            memory: ManuallyDrop::new(Arc::clone(memory)),
        })
    }

    /// A buffer without bytes that keeps this one, to go along with a task that transfers a part of it.
    pub(crate) fn share(whole: &Arc<Self>) -> Self {
        Self {
            address: whole.address,
            len: 0,
            held: Some(HeldMemory::Share(Arc::clone(whole))),
            memory: ManuallyDrop::new(Arc::clone(&whole.memory)),
        }
    }

    /// Bytes that the buffer can have without being allocated anew; at least its length.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.chunk().len_bytes as usize
    }

    /// Changes the length, so that a task transfers that many bytes. Bytes that appear have
    /// unspecified values.
    ///
    /// # Panics
    /// If `len` is beyond the capacity.
    pub fn set_len(&mut self, len: usize) {
        let capacity = self.capacity();
        assert!(
            len <= capacity,
            "length {len} of a buffer with capacity {capacity}"
        );
        self.len = len;
    }

    /// A part of the buffer, to be sent. Panics as indexing does.
    #[must_use]
    pub fn range(&self, range: impl RangeBounds<usize>) -> BufferSlice<'_> {
        BufferSlice::from(self).range(range)
    }

    /// A part of the buffer, to be filled. Panics as indexing does.
    #[must_use]
    pub fn range_mut(&mut self, range: impl RangeBounds<usize>) -> BufferSliceMut<'_> {
        let (start, len) = resolve(range, self.len);
        BufferSliceMut {
            buffer: self,
            start,
            len,
        }
    }

    /// Frees the buffer as dropping it does, also on a thread that is inside: for this crate itself.
    pub(crate) fn give_back(self) {
        let mut this = ManuallyDrop::new(self);
        if this.memory.is_here() {
            this.free();
        }
    }

    /// Frees the memory. To be called once, in the buffer's process.
    fn free(&mut self) {
        match self.held.take() {
            Some(HeldMemory::Chunk(chunk)) => self.memory.free(chunk),
            Some(HeldMemory::Share(whole)) => {
                if let Some(whole) = Arc::into_inner(whole) {
                    whole.give_back();
                }
            }
            None => {}
        }
        // SAFETY: the buffer ends here, and the value is not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.memory) };
    }

    fn chunk(&self) -> &BufferChunk {
        match self.held.as_ref().expect("there until drop") {
            HeldMemory::Chunk(chunk) => chunk,
            HeldMemory::Share(whole) => whole.chunk(),
        }
    }

    /// How a task names this part of the buffer.
    ///
    /// # Errors
    /// If the buffer belongs to another connection, or a task cannot name that many bytes.
    #[inline]
    pub(crate) fn wire_range(
        &self,
        start: usize,
        len: usize,
        memory: &Arc<BufferMemory>,
        access: Access,
    ) -> Result<BufferRange, Error> {
        if !Arc::ptr_eq(&self.memory, memory) {
            return Err(foreign());
        }
        let chunk = self.chunk();
        Ok(BufferRange {
            segment: chunk.segment,
            offset_bytes: chunk.offset_bytes + start as u64,
            len_bytes: u32::try_from(len).map_err(|_| too_long(len))?,
            access,
        })
    }
}

#[cold]
fn foreign() -> Error {
    Error::new(Status::InvalidBuffer, "submitting a task").with_detail(
        "the buffer belongs to another connection: allocate it from the runtime that the task \
         is for",
    )
}

#[cold]
fn too_long(len: usize) -> Error {
    Error::new(Status::InvalidBuffer, "submitting a task").with_detail(format!(
        "a task transfers at most {} bytes, not {len}: use a range of the buffer",
        u32::MAX
    ))
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `len` is at most the chunk's length. The chunk lies in a segment that `memory` keeps mapped (in a
        // forked child private memory takes its place), and belongs to this buffer until it is dropped. Mapped
        // shared memory is initialised: it is zero, or what was written before. No task in flight writes it, since
        // such a task owns the buffer or borrows it mutably.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the buffer is borrowed mutably, so nobody else in this process
        // has a reference, and no task in flight reads it either.
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("len", &self.len)
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // In a signal handler that may have interrupted the holder of the memory's lock, the buffer is leaked.
        if self.memory.is_here() && !is_inside() {
            self.free();
        }
    }
}

/// A part of a buffer, borrowed to be sent.
#[derive(Clone, Copy, Debug)]
pub struct BufferSlice<'a> {
    buffer: &'a Buffer,
    start: usize,
    len: usize,
}

impl<'a> BufferSlice<'a> {
    /// A part of this part. Panics as indexing does.
    #[must_use]
    pub fn range(self, range: impl RangeBounds<usize>) -> Self {
        let (start, len) = resolve(range, self.len);
        Self {
            start: self.start + start,
            len,
            ..self
        }
    }

    /// How a task names it.
    #[inline]
    pub(crate) fn wire_range(
        &self,
        memory: &Arc<BufferMemory>,
        access: Access,
    ) -> Result<BufferRange, Error> {
        self.buffer.wire_range(self.start, self.len, memory, access)
    }
}

impl Deref for BufferSlice<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[self.start..][..self.len]
    }
}

impl<'a> From<&'a Buffer> for BufferSlice<'a> {
    #[inline]
    fn from(buffer: &'a Buffer) -> Self {
        Self {
            buffer,
            start: 0,
            len: buffer.len,
        }
    }
}

impl<'a> From<&'a mut Buffer> for BufferSlice<'a> {
    #[inline]
    fn from(buffer: &'a mut Buffer) -> Self {
        Self::from(&*buffer)
    }
}

/// A part of a buffer, borrowed to be filled.
#[derive(Debug)]
pub struct BufferSliceMut<'a> {
    buffer: &'a mut Buffer,
    start: usize,
    len: usize,
}

impl BufferSliceMut<'_> {
    /// A part of this part, borrowed for a shorter time. Panics as indexing does.
    #[must_use]
    pub fn range_mut(&mut self, range: impl RangeBounds<usize>) -> BufferSliceMut<'_> {
        let (start, len) = resolve(range, self.len);
        BufferSliceMut {
            buffer: self.buffer,
            start: self.start + start,
            len,
        }
    }

    /// The same part as one to be sent.
    #[inline]
    pub(crate) fn as_slice(&self) -> BufferSlice<'_> {
        BufferSlice {
            buffer: self.buffer,
            start: self.start,
            len: self.len,
        }
    }
}

impl Deref for BufferSliceMut<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[self.start..][..self.len]
    }
}

impl DerefMut for BufferSliceMut<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..][..self.len]
    }
}

impl<'a> From<&'a mut Buffer> for BufferSliceMut<'a> {
    #[inline]
    fn from(buffer: &'a mut Buffer) -> Self {
        let len = buffer.len;
        Self {
            buffer,
            start: 0,
            len,
        }
    }
}

/// Start and length of a range within `len`.
fn resolve(range: impl RangeBounds<usize>, len: usize) -> (usize, usize) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => len,
    };
    assert!(
        start <= end && end <= len,
        "range {start}..{end} of a buffer of {len} bytes"
    );
    (start, end - start)
}
