//! A queue into a thread that may be polling or asleep.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use chimaera_fork::Private;
use crossbeam::queue::SegQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// A queue whose owner polls a flag while it runs and sleeps on a file when it does not. Any
/// thread sends; one thread receives.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    queue: SegQueue<T>,
    // Set after a push, cleared before the queue is emptied.
    signalled: AtomicBool,
    event: Private<EventFd>,
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            queue: SegQueue::new(),
            signalled: AtomicBool::new(false),
            event: Private::new(|| Ok(EventFd::from_value_and_flags(0, flags)?))?,
        })
    }

    pub(crate) fn send(&self, message: T) {
        self.queue.push(message);
        // AcqRel pairs with the swap in `receive`. If the flag was clear, the receiver may be
        // asleep and is rung. If it was set, the receiver has yet to clear it, and by reading our
        // store it sees our message when it then empties the queue.
        if !self.signalled.swap(true, Ordering::AcqRel) {
            let _ = self.event.write(1);
        }
    }

    /// Whether there may be a message. Costs one load of a cache line that rarely changes.
    #[inline]
    pub(crate) fn is_signalled(&self) -> bool {
        self.signalled.load(Ordering::Relaxed)
    }

    /// Takes the next message. To be called until it returns `None`, which it does once the queue is empty and the flag
    /// clear.
    pub(crate) fn receive(&self) -> Option<T> {
        if let Some(message) = self.queue.pop() {
            return Some(message);
        }
        // AcqRel pairs with the swap in `send`: what was sent before that swap is popped below.
        self.signalled.swap(false, Ordering::AcqRel);
        self.queue.pop()
    }
}

impl<T> AsFd for Inbox<T> {
    /// The file that becomes readable, edge-triggered, when a message comes in. Nobody reads it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
