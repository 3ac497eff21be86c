//! What the control thread does when the host has run out of something: it has kept a descriptor, with which it
//! can take a connection only to say why it does not serve it.
//!
//! The log says when that begins and when it is over, however many clients come meanwhile.

use std::io;
use std::time::{Duration, Instant};

use crate::log;

use chimaera_shm::{Doorbell, Shortage};

/// How long nothing may have been lacking for a shortage to be over. A client that comes and goes at the
/// limit would else fill the log.
const QUIET: Duration = Duration::from_secs(2);

/// How often the log is told of what the system refuses for no want, which may be at every connection.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(10);

/// A descriptor that is kept for the time when there is no other, and what became of it.
#[derive(Debug)]
pub(crate) struct Reserve {
    /// A file of no other use. `None` while the descriptor is in use.
    file: Option<Doorbell>,
    shortage: Option<Lasting>,
    /// When the log was last told of a refusal that is for no want.
    told_of_refusal: Option<Instant>,
}

/// A time in which something was lacking.
#[derive(Debug)]
struct Lasting {
    last: Instant,
    turned_away: u64,
    refused_requests: u64,
}

impl Lasting {
    /// What came of it, for the log.
    fn summary(&self) -> String {
        let clients = (self.turned_away, "clients were turned away");
        let requests = (self.refused_requests, "requests were refused");
        let counts = [clients, requests].into_iter().filter(|count| count.0 > 0);
        let counts: Vec<_> = counts
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        match counts.is_empty() {
            true => "the shortage is over".to_owned(),
            false => format!("the shortage is over; {}", counts.join(", ")),
        }
    }
}

impl Reserve {
    /// # Errors
    /// There is no descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            file: Some(Doorbell::new()?),
            shortage: None,
            told_of_refusal: None,
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

    /// Notes that something was refused by the system, so that `what` cannot be. Where that is for no want, the
    /// log has it, and nothing is short.
    pub(crate) fn note(&mut self, what: &str, error: &io::Error) {
        match Shortage::of(error) {
            Some(shortage) => self.note_shortage(&format!("{what} ({error})"), shortage),
            None => {
                let now = Instant::now();
                if self
                    .told_of_refusal
                    .is_none_or(|last| now - last >= REFUSAL_INTERVAL)
                {
                    self.told_of_refusal = Some(now);
                    log::warning(format_args!("{what}, as the system refuses: {error}"));
                }
            }
        }
    }

    /// Notes that something is lacking, so that `what` cannot be.
    fn note_shortage(&mut self, what: &str, shortage: Shortage) {
        match &mut self.shortage {
            Some(lasting) => lasting.last = Instant::now(),
            None => {
                log::warning(format_args!(
                    "{what}, as the runtime has {}: new clients and lanes are refused for as long as that \
                     lasts; {}",
                    shortage.what(),
                    shortage.remedy()
                ));
                self.shortage = Some(Lasting {
                    last: Instant::now(),
                    turned_away: 0,
                    refused_requests: 0,
                });
            }
        }
    }

    /// Notes that a client's request is refused because something is lacking.
    pub(crate) fn note_refused_request(&mut self, shortage: Shortage) {
        self.note_shortage("a client's request is refused", shortage);
        if let Some(lasting) = &mut self.shortage {
            lasting.refused_requests += 1;
        }
    }

    /// Counts a client that was told so.
    pub(crate) fn count_turned_away(&mut self) {
        if let Some(lasting) = &mut self.shortage {
            lasting.turned_away += 1;
        }
    }

    /// Gets the descriptor back if there is one, and notes the end of a shortage.
    pub(crate) fn restore(&mut self) {
        self.restore_by(Instant::now(), Doorbell::new);
    }

    fn restore_by(&mut self, now: Instant, make: impl Fn() -> io::Result<Doorbell>) {
        if self.file.is_none() {
            self.file = make().ok();
        }
        let Some(lasting) = &mut self.shortage else {
            return;
        };
        if self.file.is_none() || now.saturating_duration_since(lasting.last) < QUIET {
            return;
        }
        // That nobody asked for a descriptor lately does not say that there is one again.
        if let Err(error) = make()
            && Shortage::of(&error).is_some()
        {
            lasting.last = now;
            return;
        }
        log::warning(lasting.summary());
        self.shortage = None;
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn a_shortage_is_over_when_there_is_a_descriptor_again_and_not_when_nobody_asks() {
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM] {
            let mut reserve = Reserve::new().expect("a descriptor");
            reserve.note("a test", &errno.into());
            assert!(reserve.is_short());
            let mut now = Instant::now();
            reserve.restore_by(now, Doorbell::new);
            assert!(reserve.is_short(), "it is not quiet yet");
            for _ in 0..3 {
                now += QUIET;
                reserve.restore_by(now, || Err(errno.into()));
                assert!(reserve.is_short(), "{errno} lasts");
            }
            reserve.restore_by(now + QUIET / 2, Doorbell::new);
            assert!(reserve.is_short(), "it was lacking just now");
            reserve.restore_by(now + QUIET, Doorbell::new);
            assert!(!reserve.is_short());
        }
    }

    #[test]
    fn the_log_has_whom_a_shortage_concerned_and_nobody_else() {
        let summary = |turned_away, refused_requests| {
            let last = Instant::now();
            let lasting = Lasting {
                last,
                turned_away,
                refused_requests,
            };
            lasting.summary()
        };
        assert_eq!(summary(0, 0), "the shortage is over");
        assert_eq!(
            summary(0, 2),
            "the shortage is over; 2 requests were refused"
        );
        let both = "the shortage is over; 3 clients were turned away, 2 requests were refused";
        assert_eq!(summary(3, 2), both);
    }

    #[test]
    fn what_is_refused_for_no_want_is_no_shortage() {
        let mut reserve = Reserve::new().expect("a descriptor");
        for errno in [Errno::EPERM, Errno::EINVAL, Errno::EAGAIN] {
            reserve.note("a test", &errno.into());
            assert!(!reserve.is_short(), "{errno}");
        }
    }
}
