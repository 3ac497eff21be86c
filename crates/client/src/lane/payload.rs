//! What a task brings along, by record: its call and its buffer.
//!
//! They lie at the record and not in the handle, because a handle is moved. A move of data that was just written waits
//! until the processor has written it, and with it all that was written before, including the entry for the worker.
//!
//! Laws of this module:
//! - A payload belongs to the submitter until the task is published, then to the task's handle, and, once the handle is
//!   dropped or the task harvested, to the holder of the handle table's lock. Whoever moves the claim out of `Attached`
//!   has the payload from then on.
//! - A record is freed after its payload's buffer was taken.

use std::cell::UnsafeCell;

use chimaera_proto::limits::LANE_DEPTH;
use chimaera_proto::{PoolId, PoolQuery};

use crate::buffer::Buffer;
use crate::call::Call;

/// A call, and the buffer that goes along with its task.
pub(crate) struct Payload {
    pub(crate) call: Call,
    pub(crate) buffer: Option<Buffer>,
}

impl Payload {
    /// Puts a buffer here, where there is none. Drops nothing, because the thread is inside.
    #[inline]
    pub(crate) fn put_buffer(&mut self, buffer: Option<Buffer>) {
        let before = std::mem::replace(&mut self.buffer, buffer);
        debug_assert!(before.is_none(), "the buffer of a task that has ended");
        std::mem::forget(before);
    }

    /// Drops a buffer that nobody took.
    #[cold]
    #[inline(never)]
    pub(crate) fn drop_buffer(&mut self) {
        drop(self.buffer.take());
    }
}

/// The payloads of a lane, by record.
pub(crate) struct Payloads([UnsafeCell<Payload>; LANE_DEPTH]);

// SAFETY: a payload has one owner at a time, by this module's laws, and what it holds may be used
// from any thread.
unsafe impl Sync for Payloads {}

impl Payloads {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| {
            UnsafeCell::new(Payload {
                call: Call {
                    pool: PoolId::ADMIN,
                    instance: 0,
                    query: PoolQuery::Local,
                    method: 0,
                    arguments: [0; 3],
                },
                buffer: None,
            })
        }))
    }

    /// A record's payload.
    ///
    /// # Safety
    /// The caller owns the payload, by this module's laws, for as long as it uses the reference, and
    /// uses one reference at a time.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "the caller knows who owns the payload")]
    pub(crate) unsafe fn of(&self, record: usize) -> &mut Payload {
        // SAFETY: by this function's contract.
        unsafe { &mut *self.0[record].get() }
    }
}
