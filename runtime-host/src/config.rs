//! How a host is set up.

use std::path::PathBuf;
use std::time::Duration;

use chimaera_chimod::Module;

use crate::accounts::AccountLimits;

/// How a host is set up. [`Config::default`] is an embedded host: it listens nowhere, and finds
/// plugins as a daemon does.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen for operators, or `None` for a host that only its own process uses. Root, the user of the daemon
    /// and `operators` can connect there, nobody else, and have all rights.
    pub socket: Option<PathBuf>,
    /// Who else is an operator.
    pub operators: Operators,
    /// Where to listen for users, who have the rights that the permissions of pools give them.
    pub listen: Vec<UsersSocket>,
    /// Folders beneath which modules may open paths that operators name. Without any, such paths are opened by a host
    /// that serves nobody but its own user, who is not root, or nobody but its own process; and else none.
    pub allow_paths: Vec<PathBuf>,
    /// Types of file systems on which clients' files are taken, besides those of local disks and memory: the operator
    /// trusts whoever serves them not to make the host hang. `fuse` stands for `fuse.sshfs`, too.
    pub allow_file_systems: Vec<String>,
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
    /// How much users and sessions may have of what all share.
    pub limits: AccountLimits,
    /// How long the end of the host may take: for tasks in flight, for pools that are being made, and for flushing and
    /// closing all of them. What has not come to its end by then is given up, and named.
    pub stop_timeout: Duration,
}

/// How long the end of a host may take if nobody says otherwise.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(30);

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: None,
            operators: Operators::default(),
            listen: Vec::new(),
            allow_paths: Vec::new(),
            allow_file_systems: Vec::new(),
            worker_count: 0,
            pin_to: Vec::new(),
            polling: Polling::Balanced,
            plugin_folders: Vec::new(),
            modules: Vec::new(),
            opened_modules: Vec::new(),
            opens_named_modules_only: false,
            limits: AccountLimits::default(),
            stop_timeout: DEFAULT_STOP_TIMEOUT,
        }
    }
}

/// Users, by their ids, who have all rights in a daemon, besides root and the daemon's own user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operators {
    /// These users.
    pub users: Vec<u32>,
    /// The members of these groups.
    pub groups: Vec<u32>,
}

impl Operators {
    /// Whether nobody is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

/// A socket for users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsersSocket {
    /// Where it lies.
    pub path: PathBuf,
    /// Permission bits of its file: who may write to it may connect. They are set at each start, whatever the umask.
    pub mode: u32,
    /// Group of its file; `None` for that of the daemon.
    pub group: Option<u32>,
    /// The most that clients get there.
    pub max: UsersCeiling,
}

/// The most that clients of a socket get, whatever the permissions of pools say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsersCeiling {
    /// To read pools: nothing can be made or changed.
    Read,
    /// All that the permissions give.
    Write,
}

impl Config {
    /// Whether a file or folder that others could change is only warned of. It is an error if clients of other users
    /// than this process's are meant to connect, or if this process is root's.
    pub(crate) fn warns_of_open_paths(&self) -> bool {
        !self.serves_others()
    }

    /// Whether modules may open any path that operators name.
    #[must_use]
    pub fn opens_any_path(&self) -> bool {
        let is_reached_by_nobody = self.socket.is_none() && self.listen.is_empty();
        self.allow_paths.is_empty() && (is_reached_by_nobody || !self.serves_others())
    }

    /// Whether clients of other users than this process's are meant to connect, or this process is root's.
    #[must_use]
    pub fn serves_others(&self) -> bool {
        let admits = |socket: &UsersSocket| socket.mode & 0o066 != 0;
        let admits_others = !self.operators.is_empty() || self.listen.iter().any(admits);
        admits_others || nix::unistd::Uid::effective().is_root()
    }

    /// The number of workers that a host has.
    #[must_use]
    pub fn effective_worker_count(&self) -> usize {
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
