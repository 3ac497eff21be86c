//! What a task handle leaves at its record: the call and the buffer.
//!
//! They lie there, and not in the handle, because a handle travels: every move of what was just
//! written would wait until the processor has written it, and with it all that was written before,
//! the entry for the worker among it.
//!
//! Laws of this module:
//! - A place is its record's submitter's until the task is published, then its handle's, and the
//!   lane's desk's (under the desk's lock) once the handle is dropped or the task harvested. Whoever
//!   moves the claim out of `ATTACHED` has the place from then on.
//! - A record is freed with its place empty of a buffer.

use std::cell::UnsafeCell;

use chimaera_proto::limits::LANE_DEPTH;
use chimaera_proto::{PoolId, PoolQuery};

use crate::buffer::Buffer;
use crate::call::Call;

/// What was asked for, and the buffer that went along.
pub(crate) struct Payload {
    pub(crate) call: Call,
    pub(crate) buffer: Option<Buffer>,
}

impl Payload {
    /// Leaves a buffer here, where there is none. Nothing is dropped: the thread is inside.
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

// SAFETY: a place has one owner at a time, by this module's laws, and what it holds may be used
// from any thread.
unsafe impl Sync for Payloads {}

impl Payloads {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| {
            UnsafeCell::new(Payload {
                call: Call {
                    pool: PoolId::ADMIN,
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
    /// The caller has the place, by this module's laws, for as long as it uses the reference, and
    /// uses one at a time.
    #[inline]
    #[expect(
        clippy::mut_from_ref,
        reason = "who has the place is the caller's to know"
    )]
    pub(crate) unsafe fn of(&self, record: usize) -> &mut Payload {
        // SAFETY: by this function's contract.
        unsafe { &mut *self.0[record].get() }
    }
}
