//! A task in the hands of a container.

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;

use chimaera_proto::task::{ARGUMENT_COUNT, VALUE_COUNT};
use chimaera_proto::{ContainerId, Failure, PoolId, Status};

use crate::abi::{HostVTable, RawTask};
use crate::host_handle::Host;

/// A task that waits to be completed. It completes exactly once: by [`Request::complete`] or
/// [`Request::fail`], from any thread, or, if it is dropped, as [`Status::Aborted`] (as
/// [`Status::ModulePanicked`] where a panic drops it).
#[must_use = "dropping a request fails its task"]
pub struct Request {
    /// Lies in the host's memory, so that a task is not copied at every step of its way.
    task: NonNull<RawTask>,
    /// The host's table, which outlives every request (`Host::from_table`).
    table: *const HostVTable,
}

// SAFETY: the task does not change as long as there is a request. The buffer that it points to is
// shared memory that any thread may access through `SharedBuffer`'s rules; the token and the host
// may be used from any thread.
unsafe impl Send for Request {}

impl Request {
    /// Takes a task over from the host.
    ///
    /// # Safety
    /// `task` comes from the host behind `host`, is taken over only once, and stays where it is,
    /// unchanged, until it completes; until then its buffer is null or mapped, for reading and
    /// writing.
    pub unsafe fn from_raw(task: NonNull<RawTask>, host: Host) -> Self {
        Self {
            task,
            table: host.table(),
        }
    }

    #[inline]
    fn task(&self) -> &RawTask {
        // SAFETY: `from_raw`'s caller keeps it as it is until the task completes, which takes the
        // request.
        unsafe { self.task.as_ref() }
    }

    /// What to do.
    #[inline]
    #[must_use]
    pub fn method(&self) -> u16 {
        self.task().method
    }

    /// The pool that the task is for.
    #[inline]
    #[must_use]
    pub fn pool(&self) -> PoolId {
        PoolId::new(self.task().pool_major, self.task().pool_minor)
    }

    /// The container that the task's query resolved to.
    #[inline]
    #[must_use]
    pub fn container(&self) -> ContainerId {
        ContainerId(self.task().container)
    }

    /// The arguments, as the client wrote them: not yet validated.
    #[inline]
    #[must_use]
    pub fn arguments(&self) -> [u64; ARGUMENT_COUNT] {
        self.task().arguments
    }

    /// The buffer, if one goes along: validated to lie in the client's registered memory.
    #[inline]
    #[must_use]
    pub fn buffer(&self) -> Option<SharedBuffer<'_>> {
        (!self.task().buffer.is_null()).then_some(SharedBuffer {
            data: self.task().buffer,
            len: self.task().buffer_len as usize,
            _request: PhantomData,
        })
    }

    /// The buffer, if one goes along that the client lets the module write.
    #[inline]
    #[must_use]
    pub fn writable_buffer(&self) -> Option<WritableBuffer<'_>> {
        let buffer = self.buffer()?;
        (self.task().buffer_is_read_only == 0).then_some(WritableBuffer { buffer })
    }

    /// Completes the task with the first of its values. The values that are not given are not specified: the client may
    /// find there what an earlier task of the same lane left.
    ///
    /// # Panics
    /// If there are more than [`VALUE_COUNT`] values: a mistake in the module. The task fails.
    #[inline]
    pub fn complete(self, values: &[u64]) {
        assert!(
            values.len() <= VALUE_COUNT,
            "a completion carries at most {VALUE_COUNT} values"
        );
        self.finish(0, values);
    }

    /// Completes the task as failed. A status that only the runtime gives ([`Status::is_of_runtime`]), [`Status::Ok`]
    /// among them, reaches the client as [`Status::Aborted`].
    pub fn fail(self, failure: impl Into<Failure>) {
        self.fail_with(failure, &[]);
    }

    /// Completes the task as failed, with values that say more; those that are not given are zero. The status is
    /// treated as in [`Self::fail`].
    ///
    /// # Panics
    /// As [`Self::complete`].
    pub fn fail_with(self, failure: impl Into<Failure>, values: &[u64]) {
        assert!(
            values.len() <= VALUE_COUNT,
            "a completion carries at most {VALUE_COUNT} values"
        );
        let failure = failure.into();
        // The host does this for the runtime's other statuses, but would take `Ok` for a success.
        let failure = match failure.status {
            Status::Ok => Failure::new(Status::Aborted),
            _ => failure,
        };
        self.finish(failure.to_word(), values);
    }

    #[inline]
    fn finish(self, status_word: u32, values: &[u64]) {
        ManuallyDrop::new(self).send(status_word, values);
    }

    /// Must be called once, at the end of the request's life.
    #[inline]
    fn send(&mut self, status_word: u32, values: &[u64]) {
        // SAFETY: the table outlives the request. The token is the task's own and used once:
        // `finish` takes the request and keeps it from being dropped, `drop` runs at most once.
        unsafe {
            let host = &*self.table;
            (host.complete)(
                host.context,
                &raw const (*self.task.as_ptr()).token,
                status_word,
                values.as_ptr(),
                values.len() as u32,
            );
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("task", self.task())
            .finish_non_exhaustive()
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let status = if std::thread::panicking() {
            Status::ModulePanicked
        } else {
            Status::Aborted
        };
        self.send(Failure::new(status).to_word(), &[]);
    }
}

/// A task's buffer in the client's memory, to be read.
///
/// The client may change it at any time, so it is only ever copied from, once, and what was copied
/// is what counts. No reference to its bytes is formed.
#[derive(Clone, Copy, Debug)]
pub struct SharedBuffer<'request> {
    data: *mut u8,
    len: usize,
    _request: PhantomData<&'request Request>,
}

impl SharedBuffer<'_> {
    /// Bytes of the buffer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the buffer has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// First byte, for devices and bulk copies. Valid for reading `len` bytes until the request
    /// completes; the client may write there meanwhile.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.data
    }

    /// Copies out of the buffer, from `offset` on.
    ///
    /// # Panics
    /// If the range does not lie within the buffer: check it against [`Self::len`].
    pub fn copy_to(&self, offset: usize, target: &mut [u8]) {
        self.check(offset, target.len());
        // SAFETY: the range lies within the buffer, which is mapped until the request completes
        // (`Request::from_raw`), and private memory does not overlap it. The client may write at
        // the same time; the bytes are plain data, so any mixture of them is a valid copy.
        unsafe {
            std::ptr::copy_nonoverlapping(self.data.add(offset), target.as_mut_ptr(), target.len());
        }
    }

    fn check(&self, offset: usize, len: usize) {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "{len} bytes at {offset} are not within a buffer of {}",
            self.len
        );
    }
}

/// A task's buffer in the client's memory, to be read and written.
#[derive(Clone, Copy, Debug)]
pub struct WritableBuffer<'request> {
    buffer: SharedBuffer<'request>,
}

impl<'request> Deref for WritableBuffer<'request> {
    type Target = SharedBuffer<'request>;

    fn deref(&self) -> &SharedBuffer<'request> {
        &self.buffer
    }
}

impl WritableBuffer<'_> {
    /// First byte, for devices and bulk copies. Valid for `len` bytes until the request
    /// completes; the client may read and write there meanwhile.
    #[must_use]
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.buffer.data
    }

    /// Copies into the buffer, from `offset` on.
    ///
    /// # Panics
    /// If the range does not lie within the buffer: check it against its length.
    pub fn copy_from(&self, offset: usize, source: &[u8]) {
        self.buffer.check(offset, source.len());
        // SAFETY: as in `copy_to`, in the other direction; the client lets us write.
        unsafe {
            let target = self.buffer.data.add(offset);
            std::ptr::copy_nonoverlapping(source.as_ptr(), target, source.len());
        }
    }
}
