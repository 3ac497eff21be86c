//! How a worker shares its processor with clients that wait for it: it yields.
//!
//! A client on the worker's processor cannot submit anything as long as the worker polls. Clients note on which
//! processor they wait, and the worker compares that with its own; a worker that has a processor to itself does nothing
//! of what follows. A worker that shares yields after the first pass that found nothing, or, if clients on other
//! processors may submit meanwhile, once it has polled for as long as a switch takes. Where yields go to a stranger
//! ([`Yields`]) it parks its lanes at once and sleeps: the scheduler gives a thread that is woken the processor sooner
//! than a thread that waits in the queue behind the stranger.
//!
//! While clients on other processors keep it busy, it takes tasks from clients on its own processor only now and then.
//! Such a client, when it is woken, takes the processor from the worker at once, and everybody else waits meanwhile: if
//! it were served as often as it asks, the clients elsewhere would get half as much done.
//!
//! This holds with every polling policy: a worker that went on polling would keep away what it polls for.

use std::time::Instant;

use chimaera_shm::processor::{self, YieldedTo, Yields};

use super::{ServedLane, WorkerThread, served_lane};

/// The time after a yield that nobody wanted until the next one, in multiples of what a switch takes.
const PAUSE_SWITCHES: u32 = 8;

/// How long clients beside the worker are held back while others keep it busy, in multiples of what a switch takes.
/// Serving one costs the others two switches, so they lose one part in eight for each client beside the worker.
const HOLD_SWITCHES: u32 = 16;

/// Whether and how a worker shares its processor with its clients. A client that waits on the worker's processor is
/// **beside** the worker, any other one is **elsewhere**.
#[derive(Debug)]
pub(super) struct Sharing {
    processor: u32,
    is_on: bool,
    /// Whether a client beside the worker was answered since [`Sharing::hold`] last looked.
    has_answered: bool,
    parks_at_once: bool,
    yields: Yields,
    /// Begin and end of the last yield, until it is known whether it brought work.
    given: Option<(Instant, Instant)>,
    /// The first pass without work since the last one with work.
    idle_since: Option<Instant>,
    /// Until then nobody else wants the processor, as far as the worker knows.
    alone_until: Instant,
    /// Until then no tasks are taken from clients beside the worker.
    hold_until: Option<Instant>,
}

/// What a worker that shares its processor does after a pass without work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Poll,
    GiveUp,
    Sleep,
}

impl Sharing {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            processor: processor::UNKNOWN,
            is_on: false,
            has_answered: false,
            parks_at_once: false,
            yields: Yields::new(now),
            given: None,
            idle_since: None,
            alone_until: now,
            hold_until: None,
        }
    }

    /// Where the worker runs, as of the last look.
    #[inline]
    pub(super) fn processor(&self) -> u32 {
        self.processor
    }

    /// Notes that a client beside the worker was answered.
    #[inline]
    pub(super) fn begin(&mut self) {
        self.is_on = true;
        self.has_answered = true;
    }

    /// Whether the worker looks for clients beside it.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether lanes are to be parked at once.
    pub(super) fn parks_at_once(&self) -> bool {
        self.parks_at_once
    }

    /// Whether clients beside the worker are left for later.
    #[inline]
    pub(super) fn holds_back(&self) -> bool {
        self.hold_until.is_some()
    }

    /// Decides, after a pass that found work, whether clients are held back in the next one. `all` says whether all
    /// clients are beside the worker.
    fn hold(&mut self, now: Instant, all: impl FnOnce() -> bool) {
        let has_answered = std::mem::take(&mut self.has_answered);
        match self.hold_until {
            Some(until) if now < until => {}
            Some(_) => self.hold_until = None,
            None if has_answered && !all() => {
                self.hold_until = Some(now + self.yields.switch() * HOLD_SWITCHES);
            }
            None => {}
        }
    }

    fn end(&mut self) {
        self.is_on = false;
        self.hold_until = None;
        self.given = None;
        self.idle_since = None;
    }

    /// Notes that a pass found work.
    fn note_work(&mut self) {
        if let Some((begin, end)) = self.given.take() {
            self.yields.learn(begin, end, true);
            self.alone_until = end;
        }
        self.idle_since = None;
    }

    /// What to do after a pass that found no work. `all` says whether all clients are beside the worker.
    fn next(&mut self, now: Instant, all: bool) -> Next {
        let idle_since = *self.idle_since.get_or_insert(now);
        let looked = now.saturating_duration_since(idle_since);
        if let Some(until) = self.hold_until {
            if now >= until || looked >= self.yields.switch() {
                // Clients elsewhere had their time, or have nothing to do: the next pass serves everybody.
                self.hold_until = None;
            }
            return Next::Poll;
        }
        if let Some((begin, end)) = self.given.take()
            && self.yields.learn(begin, end, false) == YieldedTo::Nobody
        {
            self.alone_until = end + self.yields.switch() * PAUSE_SWITCHES;
        }
        if !self.yields.are_worthwhile(now) {
            return if all { Next::Sleep } else { Next::Poll };
        }
        if now < self.alone_until || !all && looked < self.yields.switch() {
            return Next::Poll;
        }
        Next::GiveUp
    }
}

impl WorkerThread {
    /// Yields the processor if clients wait for it and the last pass found nothing to do. Returns
    /// whether the worker may have slept: then a pass has to follow.
    #[cold]
    pub(super) fn share_processor(&mut self, worked: bool) -> bool {
        if worked {
            self.sharing.note_work();
            let (lanes, active) = (&self.lanes, &self.active);
            let here = self.sharing.processor;
            self.sharing
                .hold(Instant::now(), || clients_beside(lanes, active, here).1);
            return false;
        }
        let (any, all) = clients_beside(&self.lanes, &self.active, self.sharing.processor);
        if !any {
            self.sharing.end();
            return false;
        }
        let now = Instant::now();
        let next = self.sharing.next(now, all);
        match next {
            Next::Poll => {}
            Next::GiveUp => {
                processor::give_up();
                self.sharing.given = Some((now, Instant::now()));
                self.note_processor();
            }
            Next::Sleep => {
                self.sharing.parks_at_once = true;
                self.tick();
                self.sharing.parks_at_once = false;
                if !self.active.is_empty() {
                    // No barrier is due yet. No client can submit anything before the worker has yielded.
                    processor::give_up();
                }
            }
        }
        next == Next::Sleep
    }

    /// Whether a lane's tasks are left for later, while clients are held back.
    #[cold]
    pub(super) fn is_held_back(&mut self, lane: u32) -> bool {
        let here = self.sharing.processor;
        served_lane(&mut self.lanes, lane)
            .lane
            .client_waits_on(here)
    }

    /// Looks on which processor this thread runs, and notes it in the lanes that it polls if it has changed. In parked
    /// lanes it is noted when they are polled again.
    pub(super) fn note_processor(&mut self) {
        let here = processor::current();
        if here == self.sharing.processor {
            return;
        }
        self.sharing.processor = here;
        for &index in &self.active {
            served_lane(&mut self.lanes, index).lane.note_worker(here);
        }
    }
}

/// Whether any client of the active lanes waits on this processor, and whether all do.
fn clients_beside(lanes: &[Option<ServedLane>], active: &[u32], here: u32) -> (bool, bool) {
    let (mut any, mut all) = (false, true);
    for &index in active {
        let served = lanes[index as usize].as_ref();
        let is_beside = served.is_some_and(|served| served.lane.client_waits_on(here));
        any |= is_beside;
        all &= is_beside;
    }
    (any, all)
}

#[cfg(test)]
mod tests;
