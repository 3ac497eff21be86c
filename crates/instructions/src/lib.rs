//! A guard: the machine instructions that a task costs, against limits in `limits.txt`.
//!
//! Times differ from machine to machine and minute to minute, so no test can hold them. The number
//! of instructions that a task takes is the same each time, and a change that makes a task's way
//! longer shows in it at once. It is no measure of speed: `chimaera bench` is.
//!
//! The program starts itself again as a **subject** ([`subject`]), a client or a host, and makes one thread
//! of it go on by single instructions (`steps`). This program plays the other side itself, so that both sides
//! take turns, and neither ever has to wait for the other:
//!
//! - [`client`] counts a client's calls. The other side is `answers`, a host that completes each
//!   task at the instruction after the one that published it.
//! - [`worker`] counts a worker of a real host with loaded plugins. The other side is an ordinary
//!   client in this process, which submits a whole lane of tasks while the worker stands still, and
//!   sees them complete between two instructions of the worker.
//!
//! Laws of this crate:
//! - It counts what users run: public functions, and plugins from files. Nothing is made public, or
//!   different, for it.
//! - Where the system forbids tracing, it says so ([`NotPossible`]) and is no failure, save where the variable `CI` is
//!   set.

#![deny(unsafe_code)]

mod answers;
pub mod client;
mod limits;
mod machine;
mod roles;
mod rounds;
mod steps;
pub mod subject;
pub mod worker;

use std::path::Path;

pub use limits::{Figure, Limits, PATH as LIMITS_PATH};
pub use roles::play;
use steps::Steps;
use subject::Subject;

/// Why something could not be counted. Only a person acts upon it, except for [`NotPossible`].
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A result with such an error.
pub type Result<T> = std::result::Result<T, Error>;

/// This machine does not let a program count another's instructions.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotPossible(pub String);

/// What the counter counts for code whose length is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Two marks with nothing in between: what every interval counts too many.
    pub nothing: u64,
    /// A loop of [`Known::LOOP_INSTRUCTIONS`].
    pub a_loop: u64,
    /// One instruction that fills few bytes, and the same that fills many.
    pub fills: [u64; 2],
    /// A copy of few bytes by the C library, and one of many.
    pub copies: [u64; 2],
}

impl Known {
    /// Instructions of the loop.
    pub const LOOP_INSTRUCTIONS: u64 = machine::LOOP_INSTRUCTIONS;

    /// Counts it. `program` is this crate's.
    ///
    /// # Errors
    /// [`NotPossible`], or a failure of the counter.
    pub fn count(program: &Path) -> Result<Self> {
        let subject = Subject::start(program, "known")?;
        let first = subject.id();
        let mut steps = Steps::seize(subject, first)?;
        let ready = steps.subject().go()?;
        let mut next = || steps.count_interval(&ready.copying, || ());
        Ok(Self {
            nothing: next()?,
            a_loop: next()?,
            fills: [next()?, next()?],
            copies: [next()?, next()?],
        })
    }
}

/// Counts all cases. `program` is this crate's.
///
/// # Errors
/// [`NotPossible`], or what went wrong.
pub fn count_all(program: &Path) -> Result<Vec<Figure>> {
    let known = Known::count(program)?;
    let counted = known.a_loop - known.nothing;
    if counted != Known::LOOP_INSTRUCTIONS {
        return Err(NotPossible(format!(
            "this machine's single steps are not single instructions: a loop of {} took {counted}",
            Known::LOOP_INSTRUCTIONS
        ))
        .into());
    }
    let mut figures = client::count(program, known.nothing)?;
    figures.extend(worker::count(program)?);
    Ok(figures)
}
