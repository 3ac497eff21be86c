//! The file by which a container wakes a worker.

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;

/// The time after which a watch that there was no room for is tried again.
const INTERVAL: Duration = Duration::from_millis(10);

/// A container's wake-up file, and whether it wakes the worker. Where the system has no room for a watch, the
/// worker polls the container instead of sleeping, until there is.
#[derive(Debug)]
pub(super) struct WakeFile {
    file: RawFd,
    is_watched: bool,
    last_try: Instant,
}

impl WakeFile {
    /// Has `watch` watch the file. The second value is the result of `watch`; the file is kept even if that failed.
    pub(super) fn new(
        file: RawFd,
        now: Instant,
        watch: impl FnOnce(RawFd) -> io::Result<()>,
    ) -> (Self, io::Result<()>) {
        let watched = watch(file);
        let wake_file = Self {
            file,
            is_watched: watched.is_ok(),
            last_try: now,
        };
        (wake_file, watched)
    }

    /// The file, if it is watched.
    pub(super) fn watched(&self) -> Option<RawFd> {
        self.is_watched.then_some(self.file)
    }

    /// Whether the file wakes the worker. If not, `watch` is tried again now and then.
    pub(super) fn wakes(
        &mut self,
        now: Instant,
        watch: impl FnOnce(RawFd) -> io::Result<()>,
    ) -> bool {
        if !self.is_watched && now.saturating_duration_since(self.last_try) >= INTERVAL {
            self.last_try = now;
            self.is_watched = watch(self.file).is_ok();
        }
        self.is_watched
    }
}

/// What helps if the system has no room for a watch. `None` if that is not the error.
pub(super) fn remedy(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC) => Some("raise fs.epoll.max_user_watches"),
        Some(Errno::ENOMEM) => Some("the system has no memory for it"),
        _ => None,
    }
}

/// Why a file of this module's cannot be watched though the system has room.
pub(super) fn mistake_of(module: &str) -> String {
    format!(
        "a mistake in module {module}: `wake_fd` has to give an eventfd, or the like, that stays open, and another one \
         in each pool"
    )
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_watch_that_there_was_no_room_for_is_tried_again_until_there_is() {
        let tries = Cell::new(0);
        let try_as = |room: bool| {
            tries.set(tries.get() + 1);
            if room {
                Ok(())
            } else {
                Err(Errno::ENOSPC.into())
            }
        };
        let mut now = Instant::now();
        let (mut wake, told) = WakeFile::new(7, now, |_| try_as(false));
        told.expect_err("there is no room");
        for _ in 0..10 {
            now += INTERVAL / 10;
            assert!(!wake.wakes(now, |_| try_as(false)));
        }
        assert_eq!((wake.watched(), tries.get()), (None, 2), "now and then");
        now += INTERVAL;
        assert!(wake.wakes(now, |_| try_as(true)));
        assert_eq!(wake.watched(), Some(7));
        now += INTERVAL;
        assert!(wake.wakes(now, |_| try_as(false)));
        assert_eq!(tries.get(), 3, "once is enough");
    }
}
