//! Frees that wait until I/O accepted before them has ended.
//!
//! Laws:
//! - A free that finds I/O on its megabyte waits here; its space stays reserved meanwhile.
//! - Each such free ends: I/O that ends brings the count of a phase to zero, and the thread that does that
//!   while the pins say that frees wait calls [`Drains::advance`].
//! - The lock here is taken only by frees that have to wait, and by I/O whose end they wait for. No callback runs
//!   under it.
use std::collections::HashMap;
use std::sync::Arc;

use crate::completion::FreeCompletion;
use crate::pins::{PinPhases, Pins};
use crate::sync::{Mutex, Weakness, weakened};
use chimaera_bdev_format::block_map::Slot;

/// The waiting frees of a pool, by the number of their megabyte.
pub(crate) struct Drains<C>(Mutex<HashMap<usize, Vec<WaitingFree<C>>>>);

/// A dead block whose space is not released yet.
pub(crate) struct WaitingFree<C> {
    pub(crate) slot: Slot,
    /// The phases that were busy when the free looked, and that nobody has seen at zero since.
    awaited: PinPhases,
    pub(crate) notice: Notice<C>,
}

impl<C> Drains<C> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// Lets a block that has just died wait for the I/O that its megabyte's pins show. Gives the frees that can be
    /// released now: this one or others.
    pub(crate) fn wait(
        &self,
        megabyte: usize,
        pins: &Pins,
        slot: Slot,
        notice: Notice<C>,
    ) -> Vec<WaitingFree<C>> {
        let mut waiting = self.0.lock();
        let late = weakened(Weakness::DrainAnnouncedLate);
        let awaited = if late {
            pins.busy()
        } else {
            pins.start_draining()
        };
        let free = WaitingFree {
            slot,
            awaited,
            notice,
        };
        waiting.entry(megabyte).or_default().push(free);
        let released = Self::take_released(&mut waiting, megabyte, pins);
        if late && waiting.contains_key(&megabyte) {
            let _ = pins.start_draining();
        }
        released
    }

    /// The frees that have nothing left to wait for. Called when a count has come to zero.
    pub(crate) fn advance(&self, megabyte: usize, pins: &Pins) -> Vec<WaitingFree<C>> {
        Self::take_released(&mut self.0.lock(), megabyte, pins)
    }

    fn take_released(
        waiting: &mut HashMap<usize, Vec<WaitingFree<C>>>,
        megabyte: usize,
        pins: &Pins,
    ) -> Vec<WaitingFree<C>> {
        // Another call may have served them all.
        let Some(frees) = waiting.get_mut(&megabyte) else {
            return Vec::new();
        };
        loop {
            let busy = pins.busy();
            let mut awaited = PinPhases::default();
            for free in frees.iter_mut() {
                free.awaited = free.awaited.intersection(busy);
                awaited = awaited.union(free.awaited);
            }
            // After an exchange the counts are read again. A thread that brings one to zero after that finds the
            // announcement and calls `advance`, which waits for the lock.
            if !pins.flip_if_needed(awaited) {
                break;
            }
        }
        let released = frees
            .extract_if(.., |free| free.awaited.is_empty())
            .collect();
        if frees.is_empty() {
            waiting.remove(&megabyte);
            pins.stop_draining();
        }
        released
    }
}

/// The completion of a free, or a share of it: the last share that is fulfilled completes the free.
pub(crate) enum Notice<C> {
    /// Undivided: no block of the free waits yet. Takes no memory.
    Whole(C),
    /// One of several.
    Share(Arc<Mutex<Option<C>>>),
}

impl<C: FreeCompletion> Notice<C> {
    /// Divides it in two.
    pub(crate) fn split(self) -> (Self, Self) {
        let shared = match self {
            Self::Whole(completion) => Arc::new(Mutex::new(Some(completion))),
            Self::Share(shared) => shared,
        };
        (Self::Share(Arc::clone(&shared)), Self::Share(shared))
    }

    /// Says that this share's part is released.
    pub(crate) fn fulfil(self) {
        let completion = match self {
            Self::Whole(completion) => Some(completion),
            // Exactly the last of all shares gets what is inside.
            Self::Share(shared) => Arc::into_inner(shared).and_then(|last| last.lock().take()),
        };
        if let Some(completion) = completion {
            completion.freed();
        }
    }
}
