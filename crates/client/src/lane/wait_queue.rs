//! The queue of tasks and threads that wait for a record of a lane, in the order in which they came.
//!
//! A task that waits has a **seat**, with a waker. It waits until it is **notified** that a record is available, and
//! uses the seat: it is polled, and submits. What counts is how many records are *available*, which means free or to
//! be freed by a harvest, and not who made them available:
//!
//! ```text
//!          join                 notify                 submits
//! (none) ────────► Waits ─────────────────► Notified ──────────► (gone)
//!                    ▲                      │  │
//!                    ├── record was taken ──┘  │ not used for long
//!                    │                         ▼
//!                    └── joins again ──────── Late
//! ```
//!
//! Laws of this module:
//! - As long as anybody waits, at least as many seats are notified as records are available. So each record that
//!   becomes available notifies one seat; and a notified seat that is given up without a record, because its task is
//!   dropped or submitted elsewhere, passes the notification on. All of this is one rule, which [`WaitQueue::notify`]
//!   applies after every change.
//! - A notified seat need not be used: a future may be kept and not polled. After [`SEAT_TIMEOUT`] it is late: it stays
//!   in the queue and counts no more, so that nobody waits behind it for ever.
//! - First come, first served: a task may take a record only if fewer seats stand before its own, not counting late
//!   ones, than records are available. A task without a seat comes after all seats.
//! - No notification is lost. A task that joins stores that somebody waits, issues a fence, and looks for records. A
//!   thread that makes a record available stores that, issues a fence, and looks whether somebody waits. One of the
//!   two fences comes first, and the thread of the second sees the other's store.
//! - Wakers are cloned, woken and dropped while the queue is not locked.

use std::collections::BTreeMap;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::sync::{AtomicBool, Mutex, Ordering, QueueStep};
use crate::wakers::Wakers;

/// How long a notified seat may stay unused before another one is notified. Much longer than an executor takes to poll
/// a task that was woken.
pub(crate) const SEAT_TIMEOUT: Duration = Duration::from_millis(20);

/// The wait queue of a lane.
pub(crate) struct WaitQueue {
    /// Whether there are seats. Written with `seats` locked, read with every task.
    waiting: AtomicBool,
    seats: Mutex<Seats>,
}

#[derive(Default)]
struct Seats {
    last_ticket: u64,
    by_ticket: BTreeMap<u64, SeatState>,
    /// The number of seats that are notified.
    notified: usize,
}

enum SeatState {
    Waits(Waker),
    Notified(Instant),
    Late,
}

/// A seat's number. Lower ones come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// The result of joining.
pub(crate) struct Joined {
    pub(crate) ticket: Ticket,
    /// Whether this seat may be used at once.
    pub(crate) may_submit: bool,
    /// Whether nobody waited before.
    pub(crate) is_first: bool,
    /// To be dropped when nothing is locked.
    pub(crate) _replaced: Option<Waker>,
}

impl WaitQueue {
    pub(crate) fn new() -> Self {
        Self {
            waiting: AtomicBool::new(false),
            seats: Mutex::default(),
        }
    }

    /// Whether anybody waits. A caller that is going to notify has made a record available before, by a `SeqCst`
    /// operation or before a `SeqCst` fence; or it is the owner of the lane, which is the only thread that joins.
    #[inline]
    pub(crate) fn is_waiting(&self) -> bool {
        // The model checker takes `SeqCst` operations for weaker than they are.
        #[cfg(loom)]
        QueueStep::FreeThenLook.fence();
        self.waiting.load(Ordering::SeqCst)
    }

    /// Whether the task with this ticket, or one without a seat, may take a record.
    pub(crate) fn may_submit(&self, ticket: Option<Ticket>, available: usize) -> bool {
        self.seats.lock().may_submit(ticket, available)
    }

    /// Takes a seat at the end, or keeps the one with this ticket, and waits there with this waker.
    pub(crate) fn join(
        &self,
        ticket: Option<Ticket>,
        waker: Waker,
        available: impl FnOnce() -> usize,
    ) -> Joined {
        let mut seats = self.seats.lock();
        let is_first = seats.by_ticket.is_empty();
        let ticket = ticket.unwrap_or_else(|| {
            seats.last_ticket += 1;
            Ticket(seats.last_ticket)
        });
        let before = seats.by_ticket.insert(ticket.0, SeatState::Waits(waker));
        let replaced = match before {
            Some(SeatState::Waits(waker)) => Some(waker),
            Some(SeatState::Notified(_)) => {
                seats.notified -= 1;
                None
            }
            Some(SeatState::Late) | None => None,
        };
        self.waiting.store(true, Ordering::Relaxed);
        // Pairs with what comes before `is_waiting`.
        QueueStep::JoinThenLook.fence();
        let may_submit = seats.may_submit(Some(ticket), available());
        Joined {
            ticket,
            may_submit,
            is_first,
            _replaced: replaced,
        }
    }

    /// Gives a seat up, with a record or without, and notifies the seats that are to be notified now.
    #[must_use = "it is dropped when nothing is locked"]
    pub(crate) fn leave(
        &self,
        ticket: Ticket,
        available: impl FnOnce() -> usize,
        wakers: &mut Wakers,
    ) -> Option<Waker> {
        let mut seats = self.seats.lock();
        let seat = seats.by_ticket.remove(&ticket.0);
        if matches!(seat, Some(SeatState::Notified(_))) {
            seats.notified -= 1;
        }
        if seats.by_ticket.is_empty() {
            self.waiting.store(false, Ordering::Relaxed);
        } else if QueueStep::PassOn.is_taken() {
            seats.notify(available(), wakers);
        }
        match seat {
            Some(SeatState::Waits(waker)) => Some(waker),
            _ => None,
        }
    }

    /// Takes the waker out of a seat that was not notified.
    pub(crate) fn take_waker(&self, ticket: Ticket) -> Option<Waker> {
        match self.seats.lock().by_ticket.get_mut(&ticket.0)? {
            SeatState::Waits(waker) => Some(std::mem::replace(waker, Waker::noop().clone())),
            SeatState::Notified(_) | SeatState::Late => None,
        }
    }

    /// Notifies as many seats as records are available.
    #[cold]
    pub(crate) fn notify(&self, available: impl FnOnce() -> usize, wakers: &mut Wakers) {
        let mut seats = self.seats.lock();
        // Counted under the lock: of two threads that notify at the same time, the second counts what both have freed.
        seats.notify(available(), wakers);
    }

    /// Notifies all seats: there is nothing more to wait for.
    pub(crate) fn notify_all(&self, wakers: &mut Wakers) {
        self.seats.lock().notify(usize::MAX, wakers);
    }

    /// Passes over seats that were notified and not used for [`SEAT_TIMEOUT`], and notifies others in their place.
    pub(crate) fn pass_over(
        &self,
        now: Instant,
        available: impl FnOnce() -> usize,
        wakers: &mut Wakers,
    ) {
        let mut seats = self.seats.lock();
        let Seats {
            by_ticket,
            notified,
            ..
        } = &mut *seats;
        for seat in by_ticket.values_mut() {
            if *notified == 0 {
                break;
            }
            if let SeatState::Notified(since) = seat
                && now.saturating_duration_since(*since) >= SEAT_TIMEOUT
                && QueueStep::PassOver.is_taken()
            {
                *seat = SeatState::Late;
                *notified -= 1;
            }
        }
        seats.notify(available(), wakers);
    }
}

impl Seats {
    fn may_submit(&self, ticket: Option<Ticket>, available: usize) -> bool {
        let end = ticket.map_or(u64::MAX, |ticket| ticket.0);
        let before = self
            .by_ticket
            .range(..end)
            .filter(|(_, seat)| !matches!(seat, SeatState::Late));
        before.take(available).count() < available
    }

    fn notify(&mut self, available: usize, wakers: &mut Wakers) {
        if self.notified >= available {
            return;
        }
        let now = Instant::now();
        for seat in self.by_ticket.values_mut() {
            if let SeatState::Waits(_) = seat
                && let SeatState::Waits(waker) = std::mem::replace(seat, SeatState::Notified(now))
            {
                wakers.push(waker);
                self.notified += 1;
                if self.notified == available {
                    return;
                }
            }
        }
    }
}

#[cfg(all(test, loom))]
#[path = "wait_queue_loom_tests.rs"]
mod loom_tests;
#[cfg(all(test, not(loom)))]
#[path = "wait_queue_tests.rs"]
mod tests;
