//! The descriptor that the control thread keeps in reserve. When the host has run out of descriptors, it accepts a
//! connection with this one, only to say why the connection is not served.
//!
//! The log says when a shortage begins and when it is over, however many clients come meanwhile.

use std::io;
use std::time::{Duration, Instant};

use crate::log;

use chimaera_shm::{Doorbell, Shortage};

/// A shortage is over when nothing has been lacking for this long. Else a client that comes and goes at the limit would
/// fill the log.
const QUIET: Duration = Duration::from_secs(2);

/// The time between two log lines about refusals of the system that are no shortage, which may come with every
/// connection.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(10);

/// A descriptor that is kept for the time when no other is left, and the shortage of that time.
#[derive(Debug)]
pub(crate) struct Reserve {
    /// A file of no other use. `None` while the descriptor is in use.
    file: Option<Doorbell>,
    shortage: Option<Lasting>,
    /// When a refusal that is no shortage was last logged.
    last_logged_refusal: Option<Instant>,
}

/// A descriptor that is kept for an operator's connection, which is served with it and not only told why it is not.
#[derive(Debug)]
pub(crate) struct OperatorsSpare(Option<Doorbell>);

impl OperatorsSpare {
    /// # Errors
    /// There is no descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Some(Doorbell::new()?)))
    }

    /// Frees the descriptor. Returns false if it was in use already.
    pub(crate) fn spend(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Whether the descriptor is in use and has to be got back.
    pub(crate) fn is_spent(&self) -> bool {
        self.0.is_none()
    }

    /// Gets the descriptor back if one is free.
    pub(crate) fn refill(&mut self) {
        if self.0.is_none() {
            self.0 = Doorbell::new().ok();
        }
    }
}

/// A time in which something was lacking.
#[derive(Debug)]
struct Lasting {
    last: Instant,
    turned_away: u64,
    refused_requests: u64,
}

impl Lasting {
    /// What the shortage has led to, for the log.
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
            last_logged_refusal: None,
        })
    }

    /// Frees the descriptor. Returns false if it was in use already.
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

    /// Notes that the system refused something, with `what` as the consequence. If it is no shortage, it is only
    /// logged.
    pub(crate) fn note(&mut self, what: &str, error: &io::Error) {
        match Shortage::of(error) {
            Some(shortage) => self.note_shortage(&format!("{what} ({error})"), shortage),
            None => {
                let now = Instant::now();
                if self
                    .last_logged_refusal
                    .is_none_or(|last| now - last >= REFUSAL_INTERVAL)
                {
                    self.last_logged_refusal = Some(now);
                    log::warning(format_args!("{what}, as the system refuses: {error}"));
                }
            }
        }
    }

    /// Notes that something is lacking, with `what` as the consequence.
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

    /// Counts a client that was turned away.
    pub(crate) fn count_turned_away(&mut self) {
        if let Some(lasting) = &mut self.shortage {
            lasting.turned_away += 1;
        }
    }

    /// Gets the descriptor back if one is free, and notes the end of a shortage.
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
        // A descriptor may still be lacking though nobody has needed one lately.
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
