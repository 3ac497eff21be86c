//! Where a test lets the module panic, to see that nothing is lost by it. There is nothing here outside of
//! tests.

#![forbid(unsafe_code)]

/// A place at which a mistake of this module, if there were one, would do most harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A pinned block is about to be copied from or to.
    Copy,
    /// A pinned block's transfer is about to be queued.
    Accepted,
    /// The first operation of a transfer is about to be planned.
    Begun,
    /// The device has answered.
    Answered,
    /// Space was released and is not counted yet.
    SpaceReleased,
}

#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn may_panic(_: Place) {}

#[cfg(test)]
pub(crate) use armed::{arm, may_panic};

#[cfg(test)]
mod armed {
    use std::cell::Cell;

    use super::Place;

    thread_local! {
        static ARMED: Cell<Option<Place>> = const { Cell::new(None) };
    }

    /// Lets this thread panic when it comes to this place for the first time.
    pub(crate) fn arm(place: Place) {
        ARMED.set(Some(place));
    }

    pub(crate) fn may_panic(place: Place) {
        if ARMED.get() == Some(place) {
            ARMED.set(None);
            panic!("as asked, at {place:?}");
        }
    }
}
