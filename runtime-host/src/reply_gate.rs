//! The gate through which threads of the control side write replies into clients' memory.
//!
//! A host that is given up while such threads are still at work closes it: from then on none of them writes there,
//! whenever it comes to its reply, so clients may be told that nobody touches their memory any more.

use std::time::Duration;

use parking_lot::RwLock;

/// The gate. Open until it is closed, for good.
#[derive(Debug, Default)]
pub(crate) struct ReplyGate {
    is_closed: RwLock<bool>,
}

impl ReplyGate {
    /// Runs what writes into a client's memory, unless the gate is closed.
    pub(crate) fn pass<T>(&self, write: impl FnOnce() -> T) -> Option<T> {
        let is_closed = self.is_closed.read();
        (!*is_closed).then(write)
    }

    /// Closes the gate. Gives whether nobody writes any more: somebody who is at it may take longer than this.
    pub(crate) fn close_within(&self, patience: Duration) -> bool {
        match self.is_closed.try_write_for(patience) {
            Some(mut is_closed) => {
                *is_closed = true;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_writes_once_the_gate_is_closed_and_it_does_not_close_on_somebody() {
        let gate = ReplyGate::default();
        let soon = Duration::from_millis(1);
        assert_eq!(gate.pass(|| gate.close_within(soon)), Some(false));
        assert_eq!(gate.pass(|| 7), Some(7));
        assert!(gate.close_within(soon));
        assert_eq!(gate.pass(|| 7), None);
    }
}
