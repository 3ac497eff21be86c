//! How a host is set up.

use std::path::PathBuf;
use std::time::Duration;

use chimaera_chimod::Module;

/// How a host is set up. [`Config::default`] is an embedded host: it listens nowhere, and finds
/// plugins as a daemon does.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen, or `None` for a host that only its own process uses.
    pub socket: Option<PathBuf>,
    /// Number of workers; 0 chooses by the number of processors ([`default_worker_count`]).
    pub worker_count: usize,
    /// Processors to pin workers to, in turn; one that cannot be used is an error. Empty: workers are not pinned.
    pub pin_to: Vec<usize>,
    /// How long workers poll before they sleep.
    pub polling: Polling,
    /// Folders to search for plugins, before those of the environment. Both come before `modules`.
    pub plugin_folders: Vec<PathBuf>,
    /// Modules that are linked into the program. They come before libraries in the folders beside the program.
    pub modules: Vec<Module>,
    /// Modules of which clients of other users than root and this process's have pools made, by name, besides those
    /// that are linked in.
    pub opened_modules: Vec<String>,
    /// Whether the modules that are linked in are open to such clients only if they are named there.
    pub opens_named_modules_only: bool,
    /// Whether clients of other users than this process's are meant to connect. If so, or if this process is root's, a
    /// library, or a folder of the socket, that others could change is an error. Otherwise it is a warning in the log.
    pub admits_others: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: None,
            worker_count: 0,
            pin_to: Vec::new(),
            polling: Polling::Balanced,
            plugin_folders: Vec::new(),
            modules: Vec::new(),
            opened_modules: Vec::new(),
            opens_named_modules_only: false,
            admits_others: false,
        }
    }
}

impl Config {
    /// Whether a file or folder that others could change is only warned of.
    pub(crate) fn warns_of_open_paths(&self) -> bool {
        !self.admits_others && !nix::unistd::Uid::effective().is_root()
    }

    pub(crate) fn effective_worker_count(&self) -> usize {
        match self.worker_count {
            0 => default_worker_count(
                std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            ),
            count => count.min(MAX_WORKERS),
        }
    }
}

/// The most workers that a host has: their index fits a task's token.
pub const MAX_WORKERS: usize = 1024;

/// The number of workers on a machine with so many processors: a quarter of them, at least one and at most 16. The
/// other processors are for the applications.
#[must_use]
pub const fn default_worker_count(processors: usize) -> usize {
    match processors / 4 {
        0 => 1,
        count @ 1..=16 => count,
        _ => 16,
    }
}

/// How long a worker polls a lane without traffic before it parks it. A parked lane costs
/// nothing; the first task after parking costs a wake-up of some microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Polling {
    /// Polls for 10 ms: for workloads with short pauses, after which the first task must not be slow.
    Performance,
    /// Polls for 100 µs, and for 1 ms while a task is in flight: longer than a device takes,
    /// shorter than a pause that a user makes.
    #[default]
    Balanced,
    /// Polls for 5 µs: sleeps whenever it can.
    Powersave,
}

impl Polling {
    pub(crate) const fn duration(self) -> Duration {
        match self {
            Self::Performance => Duration::from_millis(10),
            Self::Balanced => Duration::from_micros(100),
            Self::Powersave => Duration::from_micros(5),
        }
    }

    /// How long to poll while a task is in flight, whose completion and successor are to be expected. To sleep and be
    /// woken takes as long as many a device: while the worker is woken the device would have nothing to do.
    pub(crate) const fn duration_in_flight(self) -> Duration {
        match self {
            Self::Balanced => Duration::from_millis(1),
            Self::Performance | Self::Powersave => self.duration(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applications_keep_most_processors() {
        let counts = [1, 2, 4, 8, 16, 64, 256].map(default_worker_count);
        assert_eq!(counts, [1, 1, 1, 2, 4, 16, 16]);
    }
}
