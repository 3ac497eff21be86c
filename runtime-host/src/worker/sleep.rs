//! What wakes a worker, and how it sleeps until then.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use chimaera_fork::Private;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// What a worker was woken by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// A message in the inbox.
    Inbox,
    /// The client of the lane with this index rang.
    Lane(u32),
    /// A container can move something forward.
    Pool,
}

impl Wake {
    const KIND: u64 = 0xff << 56;
    const LANE: u64 = 1 << 56;
    const POOL: u64 = 2 << 56;

    fn to_data(self) -> u64 {
        match self {
            Self::Inbox => 0,
            Self::Lane(index) => Self::LANE | u64::from(index),
            Self::Pool => Self::POOL,
        }
    }

    fn from_data(data: u64) -> Self {
        match data & Self::KIND {
            Self::LANE => Self::Lane(data as u32),
            Self::POOL => Self::Pool,
            _ => Self::Inbox,
        }
    }
}

/// A worker's epoll instance. Every file is watched edge-triggered and never read: each ring is
/// one event, whatever the counter says.
#[derive(Debug)]
pub(crate) struct Sleeper {
    epoll: Private<Epoll>,
    events: Vec<EpollEvent>,
}

/// Events taken at a time. More stay for the next look.
const EVENTS: usize = 64;

impl Sleeper {
    pub(crate) fn new() -> io::Result<Self> {
        let make = || Ok(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let epoll = Private::with_file(make, |epoll| epoll.0.as_raw_fd())?;
        Ok(Self {
            epoll,
            events: vec![EpollEvent::empty(); EVENTS],
        })
    }

    pub(crate) fn watch(&self, file: impl AsFd, wake: Wake) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, wake.to_data());
        Ok(self.epoll.add(file, event)?)
    }

    /// Watches the wake-up file of a container.
    ///
    /// # Safety
    /// The file must be open until [`Self::forget_raw`].
    pub(crate) unsafe fn watch_raw(&self, file: RawFd) -> io::Result<()> {
        // SAFETY: by this function's contract.
        self.watch(unsafe { BorrowedFd::borrow_raw(file) }, Wake::Pool)
    }

    pub(crate) fn forget(&self, file: impl AsFd) {
        // It fails only if the file is not watched, which is as good.
        let _ = self.epoll.delete(file);
    }

    /// Takes back [`Self::watch_raw`].
    ///
    /// # Safety
    /// The file must still be open.
    pub(crate) unsafe fn forget_raw(&self, file: RawFd) {
        // SAFETY: by this function's contract.
        self.forget(unsafe { BorrowedFd::borrow_raw(file) });
    }

    /// Reports what happened since the last look, without waiting. Returns whether anything did.
    pub(crate) fn look(&mut self, report: impl FnMut(Wake)) -> bool {
        self.wait(EpollTimeout::ZERO, report)
    }

    /// Sleeps until something happens, and reports it; for `patience` at most, and up to a millisecond more.
    pub(crate) fn sleep(&mut self, patience: Option<Duration>, report: impl FnMut(Wake)) {
        let timeout = patience.map_or(EpollTimeout::NONE, |patience| {
            EpollTimeout::try_from(patience + Duration::from_millis(1)).unwrap_or(EpollTimeout::MAX)
        });
        self.wait(timeout, report);
    }

    fn wait(&mut self, timeout: EpollTimeout, mut report: impl FnMut(Wake)) -> bool {
        // An error can only be a signal; the caller looks again anyway.
        let count = self.epoll.wait(&mut self.events, timeout).unwrap_or(0);
        for event in &self.events[..count] {
            report(Wake::from_data(event.data()));
        }
        count != 0
    }
}
