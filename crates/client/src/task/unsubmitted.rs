//! Unsubmitted tasks: those that found their lane full. Such a task keeps its call and buffer itself, and is submitted
//! when it is polled, waited for or asked whether it is complete, on the lane of the thread that does so.
//!
//! Laws of this module:
//! - An unsubmitted task has done nothing, and dropping it has no effect but to free its buffer.
//! - It keeps the connection's lanes, which it needs until it is submitted.
//! - Their number in a connection is limited ([`MAX_UNSUBMITTED`]), lest a program that is faster than its device fill
//!   the memory with tasks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::thread;

use chimaera_fork::Native;
use chimaera_proto::{BufferRange, Status};

use crate::buffer::Buffer;
use crate::call::{Call, Refused};
use crate::error::Error;
use crate::lane::backpressure::Seat;
use crate::lane::claim::{ClaimState, Flight};
use crate::lane::payload::Payload;
use crate::lane::wait_queue::Ticket;
use crate::lane::{ClientLane, ConnectionLost};
use crate::lane_pool::LanePool;
use crate::runtime_inner::RuntimeInner;
use crate::wakers::{UnparkOnDrop, Wakers, unpark_this_thread, wake_all};

/// Tasks of a connection that may wait to be submitted.
pub(crate) const MAX_UNSUBMITTED: usize = 16 * 1024;

/// A task that was not submitted yet.
pub(crate) struct Unsubmitted {
    // Dropped before `counted`, which keeps the lanes.
    seat: Option<Seat<Arc<ClientLane>>>,
    call: Call,
    range: Option<BufferRange>,
    buffer: Option<Buffer>,
    counted: Counted,
}

/// The result of an attempt to submit.
pub(crate) enum Attempt {
    Submitted(Arc<ClientLane>, Flight),
    /// It cannot be submitted any more.
    Refused(Error),
    /// There is no record. The waker, if there was one, is woken when one may be available.
    NoRecord,
    /// There is no record, and the system gives no thread that would wake the waker.
    Unwatched,
}

impl Unsubmitted {
    /// An unsubmitted task, unless there are too many.
    ///
    /// # Errors
    /// [`Status::Busy`].
    pub(crate) fn new(
        runtime: &Arc<Native<RuntimeInner>>,
        call: Call,
        range: Option<BufferRange>,
        buffer: Option<Buffer>,
    ) -> Result<Self, Box<Refused>> {
        match Counted::new(runtime) {
            Some(counted) => Ok(Self {
                seat: None,
                call,
                range,
                buffer,
                counted,
            }),
            None => {
                let error = Error::new(Status::Busy, call).with_account(format_args!(
                    "{MAX_UNSUBMITTED} tasks of this connection wait to be submitted, which is the \
                     most: wait for some before asking for more"
                ));
                Err(Box::new(Refused::new(call, buffer, error)))
            }
        }
    }

    pub(crate) fn call(&self) -> Call {
        self.call
    }

    /// Takes the buffer out. The task must not be submitted afterwards.
    pub(crate) fn take_buffer(&mut self) -> Option<Buffer> {
        self.buffer.take()
    }

    /// The connection, as a number.
    pub(crate) fn connection_id(&self) -> usize {
        Arc::as_ptr(self.counted.lanes()).addr()
    }

    /// Takes the waker that the task was last polled with, unless it was woken since. The seat stays.
    pub(crate) fn take_waker(&mut self) -> Option<Waker> {
        self.seat.as_ref()?.take_waker()
    }

    /// Gives up the seat in the queue, because the task is not going to be polled for a while.
    pub(crate) fn leave_queue(&mut self) {
        self.seat = None;
    }

    /// Submits on this thread's lane if that needs no waiting, else takes a seat in its queue if there is a waker.
    /// Without a waker the task is not polled, only asked whether it is complete: its seat stays where it is, and if it
    /// is submitted now, the waker of the last poll is woken when it ends. Adds wakers that are to be woken when
    /// nothing is locked.
    pub(crate) fn attempt(&mut self, waker: Option<Waker>, wakers: &mut Wakers) -> Attempt {
        let lanes = Arc::clone(self.counted.lanes());
        let lane = match lanes.current() {
            Ok(lane) => lane,
            Err(error) => {
                wakers.extend(self.take_waker());
                return Attempt::Refused(error);
            }
        };
        let Some(waker) = waker else {
            return self.attempt_for_another(lane, wakers);
        };
        if self.ticket(lane).is_none() {
            self.seat = None;
        }
        let attempted = self.attempt_on(lane, wakers);
        if !matches!(attempted, Attempt::NoRecord) {
            return attempted;
        }
        let joined = lane.join(self.ticket(lane), waker);
        let ticket = joined.ticket;
        self.seat.get_or_insert_with(|| Seat {
            lane: Arc::clone(lane),
            ticket,
        });
        if joined.may_submit || lane.flags.is_lost() {
            let attempted = self.attempt_on(lane, wakers);
            if !matches!(attempted, Attempt::NoRecord) {
                return attempted;
            }
        }
        if lane.connection.watch_the_bell() {
            Attempt::NoRecord
        } else {
            Attempt::Unwatched
        }
    }

    /// Submits if that needs no waiting, and registers the waker of the last poll with the task in flight.
    fn attempt_for_another(&mut self, lane: &Arc<ClientLane>, wakers: &mut Wakers) -> Attempt {
        let attempted = self.attempt_on(lane, wakers);
        let waker = match &attempted {
            Attempt::NoRecord | Attempt::Unwatched => return attempted,
            Attempt::Submitted(..) | Attempt::Refused(_) => self.take_waker(),
        };
        if let Some(waker) = waker
            && !matches!(&attempted, Attempt::Submitted(lane, flight)
                if !lane.set_waker(*flight, &waker))
        {
            wakers.push(waker);
        }
        attempted
    }

    /// The ticket of the seat, if that is in this lane's queue.
    fn ticket(&self, lane: &Arc<ClientLane>) -> Option<Ticket> {
        let seat = self.seat.as_ref()?;
        Arc::ptr_eq(&seat.lane, lane).then_some(seat.ticket)
    }

    /// Submits if that needs no waiting. Once this is submitted or refused, the caller drops it, which gives the seat
    /// up.
    fn attempt_on(&mut self, lane: &Arc<ClientLane>, wakers: &mut Wakers) -> Attempt {
        let (ticket, call, range) = (self.ticket(lane), self.call, self.range);
        let fill = |payload: &mut Payload| fill_payload(payload, call, &mut self.buffer);
        match lane.try_submit_queued(ticket, &call, range, ClaimState::Attached, fill, wakers) {
            None => Attempt::NoRecord,
            Some(submitted) => self.submitted(lane, submitted),
        }
    }

    /// Submits on this thread's lane. Blocks until there is a record, so the result is not [`Attempt::NoRecord`].
    pub(crate) fn submit(&mut self) -> Attempt {
        let lanes = Arc::clone(self.counted.lanes());
        let lane = match lanes.current() {
            Ok(lane) => lane,
            Err(error) => return Attempt::Refused(error),
        };
        if !lane.submitter.is_mine() {
            return self.submit_shared();
        }
        // This thread takes the next record without queueing, so nobody else is to be notified of that record.
        self.seat = None;
        let (call, range) = (self.call, self.range);
        let fill = |payload: &mut Payload| fill_payload(payload, call, &mut self.buffer);
        let submitted = lane.submit_attached(&call, range, fill);
        self.submitted(lane, submitted)
    }

    /// As [`Self::submit`], on a shared lane: in the seat that the task has, if that is in this lane's queue.
    #[cold]
    fn submit_shared(&mut self) -> Attempt {
        let waker = unpark_this_thread();
        let _unparking = UnparkOnDrop;
        loop {
            let mut wakers = Wakers::new();
            let attempt = self.attempt(Some(waker.clone()), &mut wakers);
            wake_all(wakers);
            match attempt {
                Attempt::NoRecord => thread::park(),
                Attempt::Unwatched => thread::yield_now(),
                attempt => return attempt,
            }
        }
    }

    fn submitted(
        &self,
        lane: &Arc<ClientLane>,
        submitted: Result<Flight, ConnectionLost>,
    ) -> Attempt {
        match submitted {
            Ok(flight) => Attempt::Submitted(Arc::clone(lane), flight),
            Err(ConnectionLost) => Attempt::Refused(Error::connection_lost(self.call)),
        }
    }
}

/// Puts call and buffer into the payload of a record.
#[inline]
pub(crate) fn fill_payload(payload: &mut Payload, call: Call, buffer: &mut Option<Buffer>) {
    payload.call = call;
    if buffer.is_some() {
        payload.put_buffer(buffer.take());
    }
}

/// Counts one unsubmitted task of the connection until it is dropped.
struct Counted(Arc<Native<RuntimeInner>>);

impl Counted {
    fn new(runtime: &Arc<Native<RuntimeInner>>) -> Option<Self> {
        let count = &runtime.lanes.unsubmitted;
        // Relaxed: the count stands for itself.
        let before = count.fetch_add(1, Ordering::Relaxed);
        if before >= MAX_UNSUBMITTED {
            count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(Arc::clone(runtime)))
    }

    fn lanes(&self) -> &Arc<LanePool> {
        &self.0.lanes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.lanes.unsubmitted.fetch_sub(1, Ordering::Relaxed);
    }
}
