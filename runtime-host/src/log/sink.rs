//! Where the log's lines go.

use std::io;

use tracing::event;
use tracing::level_filters::LevelFilter;

use super::{Level, Line, Source};

/// What the log's thread writes to. It may block, fail and panic.
pub trait Sink: Send {
    /// Writes a line.
    ///
    /// # Errors
    /// The line was not written, or not whole. The same line comes again then, before any other.
    fn write(&mut self, line: &Line) -> io::Result<()>;

    /// Reopens what it writes to, because somebody has moved that away: a file that was rotated, for example.
    ///
    /// # Errors
    /// That failed; it goes on with what it had.
    fn reopen(&mut self) -> io::Result<()>;
}

/// The subscriber of the application that embeds the host.
#[derive(Debug)]
pub(super) struct Tracing;

impl Tracing {
    /// Whether any subscriber may want lines of this level. Costs a load, and runs no code of a subscriber.
    pub(super) fn lets_through(level: Level) -> bool {
        let level = match level {
            Level::Error => LevelFilter::ERROR,
            Level::Warning => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
        };
        level <= LevelFilter::current()
    }
}

impl Sink for Tracing {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        let text = &line.text;
        match (line.source, line.level) {
            (Source::Host, Level::Error) => {
                event!(tracing::Level::ERROR, "{text}");
            }
            (Source::Host, Level::Warning) => {
                event!(tracing::Level::WARN, "{text}");
            }
            (Source::Host, Level::Info) => {
                event!(tracing::Level::INFO, "{text}");
            }
            (Source::Host, Level::Debug) => {
                event!(tracing::Level::DEBUG, "{text}");
            }
            (Source::Module, Level::Error) => {
                event!(target: "chimod", tracing::Level::ERROR, "{text}");
            }
            (Source::Module, Level::Warning) => {
                event!(target: "chimod", tracing::Level::WARN, "{text}");
            }
            (Source::Module, Level::Info) => {
                event!(target: "chimod", tracing::Level::INFO, "{text}");
            }
            (Source::Module, Level::Debug) => {
                event!(target: "chimod", tracing::Level::DEBUG, "{text}");
            }
        }
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}
