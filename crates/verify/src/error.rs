//! Why a run or a check fails.

use std::io;
use std::path::PathBuf;

use chimaera_bdev_client::{Error, Status};
use chimaera_thread::NoThread;
use nix::errno::Errno;

use super::pool::PoolIdentity;

/// Why a run or a check failed: what happened, and to what.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The pool did not do what it was asked for, or it or its daemon is gone.
    #[error("{}", pool_text(activity, error))]
    Pool {
        /// What it was asked for, such as "a free".
        activity: &'static str,
        /// Why not.
        error: Error,
    },

    /// The pool did something that it promises not to do.
    #[error("{0}")]
    BrokenPromise(String),

    /// The pool does not hold what the journal promises, so that a run cannot continue it.
    #[error(
        "the pool has not what the journal promises, so the run does not go on: {first} ({violations} such in all, \
         which verify check lists)"
    )]
    NotAsPromised {
        /// The first violation, as a sentence.
        first: String,
        /// How many there are.
        violations: usize,
    },

    /// The system refused an operation on the journal's file.
    #[error("cannot {action} the journal {}: {error}", path.display())]
    JournalFile {
        /// What it refused, such as "open".
        action: &'static str,
        /// The journal.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },

    /// The journal's path names something that is not a regular file.
    #[error("the journal {} is not a regular file: name one", .0.display())]
    NotARegularFile(PathBuf),

    /// The file is not empty, and holds no journal.
    #[error("{} is not a journal of `chimaera verify`: name another file", .0.display())]
    NotAJournal(PathBuf),

    /// Another process has the journal open.
    #[error("the journal {} is in use by another process", .0.display())]
    JournalInUse(PathBuf),

    /// The journal has not even a whole first line.
    #[error("the journal {} holds no record yet: there is nothing to check", .0.display())]
    EmptyJournal(PathBuf),

    /// The journal was kept for another pool: everything that it promises would be missing in this one.
    #[error(
        "the journal {} was kept for the pool {} with id {}, and says nothing of {} with id {}: name that pool, or \
         this one's journal",
        path.display(), kept_for.name, kept_for.id, pool.name, pool.id
    )]
    JournalOfAnotherPool {
        /// The journal.
        path: PathBuf,
        /// The pool that it was kept for.
        kept_for: PoolIdentity,
        /// The pool that it was to be used with.
        pool: PoolIdentity,
    },

    /// The journal is not as it was written.
    #[error("{}: {damage}", path.display())]
    DamagedJournal {
        /// The journal.
        path: PathBuf,
        /// What is wrong with it.
        damage: String,
    },

    /// What the pool did contradicts what the journal says.
    #[error("what happened contradicts the journal {}: {contradiction}", path.display())]
    ContradictsJournal {
        /// The journal.
        path: PathBuf,
        /// In what.
        contradiction: String,
    },

    /// A thread of the workload has issued every operation id that one journal has for it.
    #[error("the journal has no numbers left: begin a new one")]
    NoNumbersLeft,

    /// The system gave no thread for the workload.
    #[error("{0}")]
    NoThread(NoThread),
}

impl VerifyError {
    /// An error of the pool's when it was asked for something, such as "a free".
    pub(super) fn pool(activity: &'static str) -> impl FnOnce(Error) -> Self {
        move |error| Self::Pool { activity, error }
    }

    /// Whether the daemon, the pool or a device is gone. That breaks no promise: it is what a crash looks like to
    /// clients.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Pool { error, .. } => {
                is_gone(error.status()) || error.errno().is_some_and(is_device_gone)
            }
            Self::JournalFile { error, .. } => error.raw_os_error().is_some_and(is_device_gone),
            _ => false,
        }
    }
}

const fn is_gone(status: Status) -> bool {
    matches!(
        status,
        Status::NoRuntime
            | Status::ConnectionLost
            | Status::ShuttingDown
            | Status::PoolNotFound
            | Status::NotFound
            | Status::ModuleNotFound
    )
}

fn is_device_gone(errno: i32) -> bool {
    matches!(Errno::from_raw(errno), Errno::ENXIO | Errno::ENODEV)
}

fn pool_text(activity: &str, error: &Error) -> String {
    match error.status() {
        Status::ConnectionLost | Status::ShuttingDown => {
            format!("the daemon went away during {activity}")
        }
        Status::PoolNotFound => format!("the pool went away during {activity}"),
        _ => error.to_string(),
    }
}
