//! Points at which tests let the module panic, to see that nothing is lost then. Outside of tests, which have the
//! feature `simulation`, this does nothing.

/// A point at which a panic, if a mistake caused one, would do most harm.
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

    /// Lets this thread panic when it next comes to this point.
    pub fn arm(point: Failpoint) {
        ARMED.set(Some(point));
    }

    /// Panics if this thread is armed for this point.
    ///
    /// # Panics
    /// As [`arm`] has asked.
    pub fn may_panic(point: Failpoint) {
        if ARMED.get() == Some(point) {
            ARMED.set(None);
            panic!("as asked, at {point:?}");
        }
    }
}
