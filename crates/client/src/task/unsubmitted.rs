//! Tasks that found no room: each has its call and buffer with itself, and submits when it is asked or
//! waited for, on the lane of the thread that does so.
//!
//! Laws of this module:
//! - A task that was not submitted has done nothing, and is dropped as if it had never been.
//! - It keeps the session: the lanes are needed until it is submitted.
//! - How many there may be in a session is limited ([`MAX_UNSUBMITTED`]), lest a program that is
//!   faster than its device fill the memory with what it wants to do.

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

/// Tasks of a session that may wait to be submitted.
pub(crate) const MAX_UNSUBMITTED: usize = 16 * 1024;

/// A task that was not submitted yet.
pub(crate) struct Unsubmitted {
    // Left before the session may go.
    seat: Option<Seat<Arc<ClientLane>>>,
    call: Call,
    range: Option<BufferRange>,
    buffer: Option<Buffer>,
    counted: Counted,
}

/// What an attempt came to.
pub(crate) enum Attempt {
    Submitted(Arc<ClientLane>, Flight),
    /// It cannot be submitted any more.
    Refused(Error),
    /// There is no room. The waker, if there was one, is woken when there may be.
    NoRoom,
    /// There is no room, and no thread to be had that would wake the waker.
    Unwatched,
}

impl Unsubmitted {
    /// Makes a task wait, unless too many do.
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

    /// Takes the buffer out; the task is not to be submitted any more.
    pub(crate) fn take_buffer(&mut self) -> Option<Buffer> {
        self.buffer.take()
    }

    /// The session, as a number.
    pub(crate) fn session(&self) -> usize {
        Arc::as_ptr(self.counted.lanes()).addr()
    }

    /// Takes the waker of who polled last, unless it was woken since. The seat stays.
    pub(crate) fn take_waker(&mut self) -> Option<Waker> {
        self.seat.as_ref()?.take_waker()
    }

    /// Gives the seat in the queue up, for who is going to ask no more for a while.
    pub(crate) fn leave_queue(&mut self) {
        self.seat = None;
    }

    /// Submits on this thread's lane if that needs no waiting, else takes a seat in its queue if there
    /// is a waker to be woken. Who has none only asks: the seat stays that of who polled, wherever it is,
    /// and if the task is submitted, who polled is woken when it ends. Gives wakers to be woken when
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
        if !matches!(attempted, Attempt::NoRoom) {
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
            if !matches!(attempted, Attempt::NoRoom) {
                return attempted;
            }
        }
        if lane.connection.watch_the_bell() {
            Attempt::NoRoom
        } else {
            Attempt::Unwatched
        }
    }

    /// Submits if that needs no waiting, and leaves the waker of who polled with the task in flight.
    fn attempt_for_another(&mut self, lane: &Arc<ClientLane>, wakers: &mut Wakers) -> Attempt {
        let attempted = self.attempt_on(lane, wakers);
        let waker = match &attempted {
            Attempt::NoRoom | Attempt::Unwatched => return attempted,
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

    /// That of the seat, if it is in this lane's queue.
    fn ticket(&self, lane: &Arc<ClientLane>) -> Option<Ticket> {
        let seat = self.seat.as_ref()?;
        Arc::ptr_eq(&seat.lane, lane).then_some(seat.ticket)
    }

    /// If it submits, or cannot any more, this is to be dropped, and so gives the seat up.
    fn attempt_on(&mut self, lane: &Arc<ClientLane>, wakers: &mut Wakers) -> Attempt {
        let (ticket, call, range) = (self.ticket(lane), self.call, self.range);
        let fill = |payload: &mut Payload| fill_payload(payload, call, &mut self.buffer);
        match lane.try_submit_queued(ticket, &call, range, ClaimState::Attached, fill, wakers) {
            None => Attempt::NoRoom,
            Some(submitted) => self.submitted(lane, submitted),
        }
    }

    /// Submits on this thread's lane. Blocks until there is room. Gives no [`Attempt::NoRoom`].
    pub(crate) fn submit(&mut self) -> Attempt {
        let lanes = Arc::clone(self.counted.lanes());
        let lane = match lanes.current() {
            Ok(lane) => lane,
            Err(error) => return Attempt::Refused(error),
        };
        if !lane.submitter.is_mine() {
            return self.submit_shared();
        }
        // It takes the next record without queueing, so nobody is to be told of that in its payload.
        self.seat = None;
        let (call, range) = (self.call, self.range);
        let fill = |payload: &mut Payload| fill_payload(payload, call, &mut self.buffer);
        let submitted = lane.submit_attached(&call, range, fill);
        self.submitted(lane, submitted)
    }

    /// As [`Self::submit`], on a lane that is shared: in the seat that there is, if it is in that queue.
    #[cold]
    fn submit_shared(&mut self) -> Attempt {
        let waker = unpark_this_thread();
        let _unparking = UnparkOnDrop;
        loop {
            let mut wakers = Wakers::new();
            let attempt = self.attempt(Some(waker.clone()), &mut wakers);
            wake_all(wakers);
            match attempt {
                Attempt::NoRoom => thread::park(),
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

/// Leaves at a record what goes along with its task.
#[inline]
pub(crate) fn fill_payload(payload: &mut Payload, call: Call, buffer: &mut Option<Buffer>) {
    payload.call = call;
    if buffer.is_some() {
        payload.put_buffer(buffer.take());
    }
}

/// One of the session's unsubmitted tasks, as long as it is there.
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
