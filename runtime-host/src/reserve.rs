//! What the control thread does when file descriptors have run out: it has kept one, with which it can
//! take a connection only to say why it does not serve it.
//!
//! The log says when that begins and when it is over, however many clients come meanwhile.

use std::io;
use std::time::{Duration, Instant};

use crate::log;

use chimaera_proto::Status;
use chimaera_shm::Doorbell;

/// How long nothing may have been lacking for a shortage to be over. A client that comes and goes at the
/// limit would else fill the log.
const QUIET: Duration = Duration::from_secs(2);

/// A descriptor that is kept for the time when there is no other, and what became of it.
#[derive(Debug)]
pub(crate) struct Reserve {
    /// A file of no other use. `None` while the descriptor is in use.
    file: Option<Doorbell>,
    shortage: Option<Shortage>,
}

/// A time in which something was lacking.
#[derive(Debug)]
struct Shortage {
    last: Instant,
    turned_away: u64,
}

/// Whether a failure is one of want: the process or the system has no more of something.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let status = error.raw_os_error().map(Status::from_errno);
    matches!(status, Some(Status::OutOfResources | Status::OutOfMemory))
}

impl Reserve {
    /// # Errors
    /// There is no descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            file: Some(Doorbell::new()?),
            shortage: None,
        })
    }

    /// Frees the descriptor. False if it was not there.
    pub(crate) fn spend(&mut self) -> bool {
        self.file.take().is_some()
    }

    /// Whether the descriptor is in use and has to be got back.
    pub(crate) fn is_spent(&self) -> bool {
        self.file.is_none()
    }

    /// Whether something was lacking lately, so that [`Self::restore`] is to be called.
    pub(crate) fn is_short(&self) -> bool {
        self.shortage.is_some()
    }

    /// Notes that something is lacking. `what` is not done for it.
    pub(crate) fn note(&mut self, what: &str) {
        match &mut self.shortage {
            Some(shortage) => shortage.last = Instant::now(),
            None => {
                log::warning(format_args!(
                    "{what}: new clients and lanes are refused for as long as that lasts; raise \
                     `ulimit -n` of the runtime, or its memory limit"
                ));
                self.shortage = Some(Shortage {
                    last: Instant::now(),
                    turned_away: 0,
                });
            }
        }
    }

    /// Counts a client that was told so.
    pub(crate) fn count_turned_away(&mut self) {
        if let Some(shortage) = &mut self.shortage {
            shortage.turned_away += 1;
        }
    }

    /// Gets the descriptor back if there is one, and notes the end of a shortage.
    pub(crate) fn restore(&mut self) {
        if self.file.is_none() {
            self.file = Doorbell::new().ok();
        }
        if self.file.is_some()
            && let Some(shortage) = self
                .shortage
                .take_if(|shortage| shortage.last.elapsed() >= QUIET)
        {
            log::warning(format_args!(
                "the shortage of file descriptors or memory is over; {} clients were turned away",
                shortage.turned_away
            ));
        }
    }
}
