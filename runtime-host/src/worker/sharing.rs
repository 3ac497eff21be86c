//! What a worker does when clients wait for the very processor that it polls on: it gives way.
//!
//! A client that shares the worker's processor cannot submit anything as long as the worker looks for
//! it. Clients say where they wait, and the worker compares that with where it runs itself, so that one
//! whose processor is its own does nothing of this. It yields after the first pass that found nothing,
//! or, if other clients may submit meanwhile, once it has looked for as long as a switch takes. Where
//! yields go to a stranger ([`Yields`]) it parks its lanes at once and sleeps: who sleeps is given the
//! processor sooner, once it is rung, than who waits in the queue behind the stranger.
//!
//! Where others keep it busy from elsewhere, it takes tasks from clients beside it now and then only. To be
//! woken, such a client takes the processor from the worker at once, and everybody else waits meanwhile: a client beside
//! the worker that was served as often as it asks cost those elsewhere half of what they get done.
//!
//! This holds with every policy: polling on keeps away what is polled for.

use std::time::Instant;

use chimaera_shm::processor::{self, YieldedTo, Yields};

use super::{ServedLane, Worker, served_lane};

/// After a yield that nobody wanted, the next one comes when so many times what a switch takes has
/// passed.
const PAUSE_SWITCHES: u32 = 8;

/// Clients beside the worker are held back for so many times what a switch takes, as long as others keep it
/// busy. Each costs those others two switches, so that they lose one part in eight for each client beside the
/// worker.
const HOLD_SWITCHES: u32 = 16;

/// Whether and how a worker shares its processor with its clients.
#[derive(Debug)]
pub(super) struct Sharing {
    processor: u32,
    is_on: bool,
    /// Whether such a client was answered since this was last looked at.
    has_answered: bool,
    is_in_a_hurry: bool,
    yields: Yields,
    /// The last yield, as long as it is not known what came of it.
    given: Option<(Instant, Instant)>,
    /// The first pass without work since there was some.
    idle_since: Option<Instant>,
    /// Nobody wants the processor until then, as far as is known.
    alone_until: Instant,
    /// Until then no tasks are taken from clients that wait on this processor.
    hold_until: Option<Instant>,
}

/// What a worker without work does that shares its processor.
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
            is_in_a_hurry: false,
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

    /// A client was answered that waits on this processor.
    #[inline]
    pub(super) fn begin(&mut self) {
        self.is_on = true;
        self.has_answered = true;
    }

    /// Whether such clients are to be looked for.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether lanes are to be parked at once.
    pub(super) fn is_in_a_hurry(&self) -> bool {
        self.is_in_a_hurry
    }

    /// Whether clients that wait on this processor are left for later.
    #[inline]
    pub(super) fn holds_back(&self) -> bool {
        self.hold_until.is_some()
    }

    /// Looks, after a pass that found work, whether clients are to be held back in the next one. `all` says whether no
    /// client is elsewhere.
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

    /// What to do after a pass that found none. `all` says whether no client is elsewhere.
    fn next(&mut self, now: Instant, all: bool) -> Next {
        let idle_since = *self.idle_since.get_or_insert(now);
        let looked = now.saturating_duration_since(idle_since);
        if let Some(until) = self.hold_until {
            if now >= until || looked >= self.yields.switch() {
                // Those elsewhere had their time, or have nothing to do: the next pass serves everybody.
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

impl Worker {
    /// Gives the processor up, if clients wait for it and the last pass found nothing to do. Returns
    /// whether it may have slept: a pass has to follow.
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
                self.sharing.is_in_a_hurry = true;
                self.tick();
                self.sharing.is_in_a_hurry = false;
                if !self.active.is_empty() {
                    // No barrier is due yet. Nobody can submit anything before this one has gone.
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

    /// Looks where this thread runs, and tells the clients whose lanes it polls if that is elsewhere
    /// than before. Those of parked lanes are told when it takes them back.
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

/// Whether any client of these lanes waits on this processor, and whether all do.
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
