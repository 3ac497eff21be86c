//! Numbers of files that are handed over to the runtime.

/// The numbers of the files that a connection offers.
#[derive(Debug, Default)]
pub(crate) struct OfferNumbers {
    next: u64,
    /// Numbers that no request will name any more. The runtime may still have a file under one, in whose place the next
    /// one comes.
    free: Vec<u64>,
}

impl OfferNumbers {
    /// A number that no request names.
    pub(crate) fn take(&mut self) -> u64 {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next
        })
    }

    /// Notes that no request names the number any more.
    pub(crate) fn give_back(&mut self, number: u64) {
        self.free.push(number);
    }
}
