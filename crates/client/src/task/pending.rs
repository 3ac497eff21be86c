//! A task in flight: what its handle holds.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use chimaera_proto::PoolId;
use chimaera_proto::status::result_from_word;
use chimaera_shm::Record;

use crate::call::{Call, Finished};
use crate::error::Error;
use crate::lane::ClientLane;
use crate::lane::claim::Flight;
use crate::lane::handle::Collected;
use crate::lane::handle_table::HarvestedTask;
use crate::lane::lingering::LaneRef;
use crate::reentrancy::{is_inside, refusal};
use crate::task_error::TaskError;

/// A task in flight, which is detached if this is dropped.
pub(crate) struct Pending {
    pub(crate) lane: LaneRef,
    flight: Flight,
}

/// The result of watching a task on behalf of a waker.
pub(crate) enum Watch {
    /// The task has ended.
    Complete,
    /// The waker is woken when the task has ended, or may be submitted.
    Waiting,
    /// The system gives no thread that would wake the waker. The caller has to try again.
    Impossible,
}

impl Pending {
    #[inline]
    pub(crate) fn new(lane: &Arc<ClientLane>, flight: Flight) -> Self {
        Self {
            lane: LaneRef::of(lane),
            flight,
        }
    }

    /// Whether waiting would not block.
    #[inline]
    pub(crate) fn is_complete(&self) -> bool {
        !self.lane.is_here() || self.lane.is_complete(self.flight)
    }

    pub(crate) fn call(&self) -> Option<Call> {
        (self.lane.is_here() && !is_inside()).then(|| self.lane.call_of(self.flight))
    }

    /// Registers a waker to be woken when the task has ended, unless it has ended already.
    pub(crate) fn watch(&self, waker: &Waker) -> Watch {
        // In a signal handler: whoever takes the result is refused.
        if self.is_complete() || is_inside() {
            Watch::Complete
        } else if !self.lane.connection.watch_the_bell() {
            Watch::Impossible
        } else if self.lane.set_waker(self.flight, waker) {
            Watch::Complete
        } else {
            Watch::Waiting
        }
    }

    /// Blocks until the task has ended, and makes its result.
    #[inline(always)]
    pub(crate) fn wait<T>(
        self,
        finish: fn(Finished<'_>) -> Result<T, TaskError>,
    ) -> Result<T, TaskError> {
        if is_inside() {
            return refused();
        }
        // From here on the record is freed here, or is not there any more.
        let this = ManuallyDrop::new(self);
        let (lane, flight) = (this.lane, this.flight);
        if !lane.is_here() {
            return forked();
        }
        match lane.collect(flight) {
            Collected::AtRecord => {
                lane.wait_until_complete(flight, None);
                // Ends the task also if `finish` panics, which is code of a module's client.
                let end = ReleaseOnDrop { lane, flight };
                // SAFETY: this thread moved the claim, which makes the payload its own.
                let payload = unsafe { lane.payloads.of(flight.record) };
                let record = lane.memory.record(flight.record);
                let result = finish(Finished::new(&payload.call, record, &mut payload.buffer));
                if result.is_err() {
                    note_failure(&lane, payload.call.pool, record);
                }
                drop(end);
                result
            }
            Collected::Harvested(mut task) => {
                let HarvestedTask { record, payload } = &mut *task;
                let result = finish(Finished::new(&payload.call, record, &mut payload.buffer));
                if result.is_err() {
                    note_failure(&lane, payload.call.pool, record);
                }
                result
            }
        }
    }

    /// Blocks until the task has ended, but no longer than until the deadline. Returns whether it
    /// has.
    pub(crate) fn waits_until(&self, deadline: Option<Instant>) -> bool {
        let (lane, flight) = (self.lane, self.flight);
        if self.is_complete() {
            return true;
        }
        // A thread sleeps only on a record that nobody else frees.
        if !lane.begin_wait(flight) {
            return true;
        }
        let is_complete = lane.wait_until_complete(flight, deadline);
        lane.end_wait(flight);
        is_complete
    }
}

/// Has the connection learn why a task has failed. What is not the host's failure is none of a pool.
#[cold]
fn note_failure(lane: &ClientLane, pool: PoolId, record: &Record) {
    if let Err(failure) = result_from_word(record.status_word()) {
        lane.connection.pools.note_failure(pool, failure.status);
    }
}

/// Ends a task whose claim is `Awaited` when it is dropped: empties the payload and frees the record.
struct ReleaseOnDrop {
    lane: LaneRef,
    flight: Flight,
}

impl Drop for ReleaseOnDrop {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: as in `Pending::wait`, which does not use its reference any more.
        let payload = unsafe { self.lane.payloads.of(self.flight.record) };
        if payload.buffer.is_some() {
            payload.drop_buffer();
        }
        self.lane.release_from_handle(self.flight);
    }
}

impl Drop for Pending {
    #[inline]
    fn drop(&mut self) {
        if self.lane.is_here() {
            self.lane.detach(self.flight);
        }
    }
}

/// The task and its buffer are another process's.
#[cold]
#[inline(never)]
fn forked<T>() -> Result<T, TaskError> {
    Err(Error::forked("waiting for a task").into())
}

/// The caller is a signal handler, and what it has interrupted must not be left half done.
#[cold]
#[inline(never)]
pub(crate) fn refused<T>() -> Result<T, TaskError> {
    Err(refusal("waiting for a task").into())
}
