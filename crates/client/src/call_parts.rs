//! Blocking calls with parts of one buffer, many of them in flight at the same time.
//!
//! Law of this module: the buffer is borrowed until every task has ended, also if something unwinds in between. The
//! calls come from the caller's iterator, which may panic: then the tasks in flight are waited for on the way out.
//!
//! The iterator may also make calls of its own, and wait for a record of this lane. So the tasks in flight here are
//! `Attached` while its code runs, as those of handles are: whoever waits for a record can harvest them when they have
//! completed, and two threads on a shared lane never wait for one another.

use std::ops::Range;

use chimaera_proto::limits::LANE_DEPTH;
use chimaera_proto::{Access, Failure};
use chimaera_shm::Record;

use crate::buffer::{BufferSlice, BufferSliceMut};
use crate::call::{Call, Values, values};
use crate::error::Error;
use crate::lane::claim::Flight;
use crate::lane::handle::Collected;
use crate::lane::{ClientLane, ConnectionLost};
use crate::runtime::Runtime;

/// Why not all parts succeeded.
#[derive(Debug)]
pub struct PartError {
    /// The first part, in order, that failed. Later ones may have been carried out or not.
    pub part: usize,
    /// What happened to it.
    pub error: Error,
}

impl Runtime {
    /// Carries out calls with parts of a buffer that the module may read and write, as many at a
    /// time as the lane has room for. Blocks until all are done. `done` gets each part's number
    /// and values, in order. After a failure no further parts are begun.
    ///
    /// # Errors
    /// The first part that failed.
    ///
    /// # Panics
    /// If a part's range is not within the buffer.
    pub fn call_parts_receiving(
        &self,
        buffer: BufferSliceMut<'_>,
        parts: impl IntoIterator<Item = (Call, Range<usize>)>,
        done: impl FnMut(usize, &Values),
    ) -> Result<(), PartError> {
        self.call_parts(buffer.as_slice(), Access::ReadWrite, parts, done)
    }

    /// As [`Self::call_parts_receiving`], with parts of a buffer that the module may only read.
    ///
    /// # Errors
    /// The first part that failed.
    ///
    /// # Panics
    /// If a part's range is not within the buffer.
    pub fn call_parts_sending(
        &self,
        buffer: BufferSlice<'_>,
        parts: impl IntoIterator<Item = (Call, Range<usize>)>,
        done: impl FnMut(usize, &Values),
    ) -> Result<(), PartError> {
        self.call_parts(buffer, Access::ReadOnly, parts, done)
    }

    fn call_parts(
        &self,
        buffer: BufferSlice<'_>,
        access: Access,
        parts: impl IntoIterator<Item = (Call, Range<usize>)>,
        mut done: impl FnMut(usize, &Values),
    ) -> Result<(), PartError> {
        let lane = self.lanes().current();
        let lane = lane.map_err(|error| PartError { part: 0, error })?;
        let mut window = PartWindow::new(lane);
        for (part, (call, range)) in parts.into_iter().enumerate() {
            let refused = match buffer.range(range).wire_range(self.memory(), access) {
                Err(error) => Some(error),
                Ok(wire) => loop {
                    match window.submit(&call, wire, part) {
                        Some(Ok(())) => break None,
                        Some(Err(_)) if lane.is_here() => break Some(Error::connection_lost(call)),
                        // The iterator's code has forked, and this is the child.
                        Some(Err(_)) => break Some(Error::forked(call)),
                        None => window.finish_first(&mut done)?,
                    }
                },
            };
            if let Some(error) = refused {
                // Parts before this one may have failed too, and come first.
                window.finish_all(&mut done)?;
                return Err(PartError { part, error });
            }
        }
        window.finish_all(&mut done)
    }
}

/// The parts in flight, in order.
struct PartWindow<'a> {
    lane: &'a ClientLane,
    /// A ring whose first part is at `first % LANE_DEPTH`.
    parts: [Option<PartInFlight>; LANE_DEPTH],
    first: usize,
    count: usize,
}

#[derive(Clone, Copy)]
struct PartInFlight {
    flight: Flight,
    call: Call,
    part: usize,
}

impl<'a> PartWindow<'a> {
    fn new(lane: &'a ClientLane) -> Self {
        Self {
            lane,
            parts: [None; LANE_DEPTH],
            first: 0,
            count: 0,
        }
    }

    /// Submits a part. Waits for a record only if no part is in flight; else returns `None` if there is no record, and
    /// the caller finishes parts first.
    fn submit(
        &mut self,
        call: &Call,
        buffer: chimaera_proto::BufferRange,
        part: usize,
    ) -> Option<Result<(), ConnectionLost>> {
        if !self.lane.is_here() {
            return Some(Err(ConnectionLost));
        }
        let submitted = match self.count {
            0 => self.lane.submit_attached(call, Some(buffer), |_| {}),
            LANE_DEPTH => return None,
            _ => self.lane.try_submit_attached(call, Some(buffer))?,
        };
        Some(submitted.map(|flight| {
            self.parts[(self.first + self.count) % LANE_DEPTH] = Some(PartInFlight {
                flight,
                call: *call,
                part,
            });
            self.count += 1;
        }))
    }

    fn pop(&mut self) -> Option<(PartInFlight, Result<Values, Error>)> {
        let member = self.parts[self.first % LANE_DEPTH].take()?;
        let take = |record: &Record| values(&self.lane.connection.pools, &member.call, record);
        let result = if !self.lane.is_here() {
            Err(Error::forked(member.call))
        } else {
            match self.lane.collect(member.flight) {
                Collected::AtRecord => self.lane.finish(member.flight, take),
                Collected::Harvested(parcel) => take(&parcel.record),
            }
        };
        self.first += 1;
        self.count -= 1;
        Some((member, result))
    }

    fn finish_first(&mut self, done: &mut impl FnMut(usize, &Values)) -> Result<(), PartError> {
        match self.pop() {
            Some((member, Ok(values))) => done(member.part, &values),
            Some((member, Err(error))) => {
                return Err(PartError {
                    part: member.part,
                    error,
                });
            }
            None => {}
        }
        Ok(())
    }

    fn finish_all(&mut self, done: &mut impl FnMut(usize, &Values)) -> Result<(), PartError> {
        while self.count != 0 {
            self.finish_first(done)?;
        }
        Ok(())
    }
}

impl Drop for PartWindow<'_> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

impl PartError {
    /// Status and errno of the failure.
    #[must_use]
    pub fn failure(&self) -> Failure {
        self.error.failure()
    }
}
