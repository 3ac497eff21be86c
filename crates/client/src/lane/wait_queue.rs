//! Who waits for a record of a lane: tasks that found it full, in the order in which they came.
//!
//! A task that waits has a **seat**. It waits there with a waker until it is **notified** that a record may
//! be had, and comes for it: it is polled, and submits. What counts is how many records are
//! *available*, free or to be freed by a harvest, and not who made them so:
//!
//! ```text
//!          join                 tell                  comes, and submits
//! (none) ────────► WAITS ─────────────────► TOLD ────────────────────────► (left)
//!                    ▲                      │  │
//!                    ├── comes too late ────┘  │ does not come for long
//!                    │                         ▼
//!                    └── comes ───────────── LATE
//! ```
//!
//! Laws of this module:
//! - As long as somebody waits, at least as many seats are notified as records are available. So
//!   each record that becomes available tells one seat, and whoever was notified and leaves without a
//!   record, by being dropped or submitted elsewhere, passes it on. All of this is one rule, applied
//!   anew by [`WaitQueue::notify`] after every change.
//! - Who is notified need not come: a future may be kept and not polled. After [`SEAT_TIMEOUT`] it is late,
//!   keeps its seat, and counts no more, so that nobody waits for ever behind it.
//! - First come, first served: a record is taken only by who has fewer seats before it, late ones
//!   left out, than records are available. Who has no seat comes after all seats.
//! - Nothing is lost between looking and waiting. Who joins is seen to wait, fences, then looks for
//!   records; who makes a record available does so, fences, then looks whether somebody waits. Of two
//!   fences one comes first, and whoever's comes second sees what the other did.
//! - Wakers are cloned, woken and dropped while the queue is not locked.

use std::collections::BTreeMap;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::sync::{AtomicBool, Mutex, Ordering, QueueStep};
use crate::wakers::Wakers;

/// How long a record waits for who was notified of it, before another is notified. Much longer than an
/// executor takes to poll what was woken.
pub(crate) const SEAT_TIMEOUT: Duration = Duration::from_millis(20);

/// The queue of a lane.
pub(crate) struct WaitQueue {
    /// Whether there are seats. Written with the line locked, read with every task.
    waiting: AtomicBool,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    last_ticket: u64,
    seats: BTreeMap<u64, SeatState>,
    /// Seats that are notified.
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

/// What joining came to.
pub(crate) struct Joined {
    pub(crate) ticket: Ticket,
    /// Whether it is this seat's turn already.
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
            line: Mutex::default(),
        }
    }

    /// Whether somebody waits. Who asks in order to tell has made a record available just before, by
    /// a `SeqCst` operation or followed by such a fence; or is the thread that submits, which on a
    /// lane of its own is also the one that joins.
    #[inline]
    pub(crate) fn is_waiting(&self) -> bool {
        // The model checker takes `SeqCst` operations for weaker than they are.
        #[cfg(loom)]
        QueueStep::FreeThenLook.fence();
        self.waiting.load(Ordering::SeqCst)
    }

    /// Whether a record may be taken by who has this seat, or none yet.
    pub(crate) fn may_submit(&self, ticket: Option<Ticket>, available: usize) -> bool {
        self.line.lock().may_submit(ticket, available)
    }

    /// Takes a seat at the end, or keeps the one that there is, and waits there with this waker.
    pub(crate) fn join(
        &self,
        ticket: Option<Ticket>,
        waker: Waker,
        available: impl FnOnce() -> usize,
    ) -> Joined {
        let mut line = self.line.lock();
        let is_first = line.seats.is_empty();
        let ticket = ticket.unwrap_or_else(|| {
            line.last_ticket += 1;
            Ticket(line.last_ticket)
        });
        let before = line.seats.insert(ticket.0, SeatState::Waits(waker));
        let replaced = match before {
            Some(SeatState::Waits(waker)) => Some(waker),
            Some(SeatState::Notified(_)) => {
                line.notified -= 1;
                None
            }
            Some(SeatState::Late) | None => None,
        };
        self.waiting.store(true, Ordering::Relaxed);
        // Pairs with what comes before `is_waiting`.
        QueueStep::JoinThenLook.fence();
        let may_submit = line.may_submit(Some(ticket), available());
        Joined {
            ticket,
            may_submit,
            is_first,
            _replaced: replaced,
        }
    }

    /// Gives a seat up, with a record or without, and tells whoever is to be notified now.
    #[must_use = "it is dropped when nothing is locked"]
    pub(crate) fn leave(
        &self,
        ticket: Ticket,
        available: impl FnOnce() -> usize,
        wakers: &mut Wakers,
    ) -> Option<Waker> {
        let mut line = self.line.lock();
        let seat = line.seats.remove(&ticket.0);
        if matches!(seat, Some(SeatState::Notified(_))) {
            line.notified -= 1;
        }
        if line.seats.is_empty() {
            self.waiting.store(false, Ordering::Relaxed);
        } else if QueueStep::PassOn.is_taken() {
            line.notify(available(), wakers);
        }
        match seat {
            Some(SeatState::Waits(waker)) => Some(waker),
            _ => None,
        }
    }

    /// Takes the waker out of a seat that was not notified.
    pub(crate) fn take_waker(&self, ticket: Ticket) -> Option<Waker> {
        match self.line.lock().seats.get_mut(&ticket.0)? {
            SeatState::Waits(waker) => Some(std::mem::replace(waker, Waker::noop().clone())),
            SeatState::Notified(_) | SeatState::Late => None,
        }
    }

    /// Tells seats of the records that are available.
    #[cold]
    pub(crate) fn notify(&self, available: impl FnOnce() -> usize, wakers: &mut Wakers) {
        let mut line = self.line.lock();
        // Under the lock: of two that tell at the same time, the second counts what both have freed.
        line.notify(available(), wakers);
    }

    /// Tells everybody: nothing is to be waited for any more.
    pub(crate) fn notify_all(&self, wakers: &mut Wakers) {
        self.line.lock().notify(usize::MAX, wakers);
    }

    /// Passes over those who were notified a while before and have not come.
    pub(crate) fn pass_over(
        &self,
        now: Instant,
        available: impl FnOnce() -> usize,
        wakers: &mut Wakers,
    ) {
        let mut line = self.line.lock();
        let Line {
            seats, notified, ..
        } = &mut *line;
        for seat in seats.values_mut() {
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
        line.notify(available(), wakers);
    }
}

impl Line {
    fn may_submit(&self, ticket: Option<Ticket>, available: usize) -> bool {
        let end = ticket.map_or(u64::MAX, |ticket| ticket.0);
        let before = self
            .seats
            .range(..end)
            .filter(|(_, seat)| !matches!(seat, SeatState::Late));
        before.take(available).count() < available
    }

    fn notify(&mut self, available: usize, wakers: &mut Wakers) {
        if self.notified >= available {
            return;
        }
        let now = Instant::now();
        for seat in self.seats.values_mut() {
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
