//! Where a test lets the module panic, to see that nothing is lost by it. There is nothing here outside of
//! tests, which have the feature `simulation`.

/// A place at which a mistake of this module, if there were one, would do most harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
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

#[cfg(not(any(test, feature = "simulation")))]
/// Does nothing.
#[inline(always)]
pub const fn may_panic(_: Failpoint) {}

#[cfg(any(test, feature = "simulation"))]
pub use armed::{arm, may_panic};

#[cfg(any(test, feature = "simulation"))]
mod armed {
    use std::cell::Cell;

    use super::Failpoint;

    thread_local! {
        static ARMED: Cell<Option<Failpoint>> = const { Cell::new(None) };
    }

    /// Lets this thread panic when it comes to this place for the first time.
    pub fn arm(place: Failpoint) {
        ARMED.set(Some(place));
    }

    /// Panics if this thread is armed for this place.
    ///
    /// # Panics
    /// See there.
    pub fn may_panic(place: Failpoint) {
        if ARMED.get() == Some(place) {
            ARMED.set(None);
            panic!("as asked, at {place:?}");
        }
    }
}
