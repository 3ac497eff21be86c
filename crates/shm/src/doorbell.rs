//! An eventfd that a client rings to wake the worker of a lane.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use chimaera_fork::Private;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// The bell of a sleeping worker. The host makes it, watches it edge-triggered, and never reads
/// it: its file description is shared with the client, who could make any read or write block.
#[derive(Debug)]
pub struct Doorbell {
    event: Private<EventFd>,
}

impl Doorbell {
    /// Makes a bell that nobody has rung.
    ///
    /// # Errors
    /// The process has no file descriptors left.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            event: Private::new(|| Ok(EventFd::from_value_and_flags(0, flags)?))?,
        })
    }

    /// Takes a bell that the host made.
    ///
    /// # Errors
    /// No memory.
    pub fn from_host(file: OwnedFd) -> io::Result<Self> {
        // SAFETY: whatever file it is, it is owned, open, and only ever written eight bytes to.
        // The host is trusted by its clients.
        let event = unsafe { EventFd::from_owned_fd(file) };
        let event = Private::adopt(event).map_err(|(_, error)| error)?;
        Ok(Self { event })
    }

    /// Rings the bell. Its counter may be full, after 2^64 rings without effect; then it stays rung.
    pub fn ring(&self) {
        // The only possible error is a full counter, and then the bell is ringing already.
        let _ = self.event.write(1);
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
