//! Why a host does not start, or does not end well.

use std::io;
use std::path::PathBuf;

use chimaera_chimod::ModuleError;
use chimaera_proto::socket_path::MAX_SOCKET_PATH_BYTES;
use chimaera_shm::Shortage;
use chimaera_thread::standstill::Standstill;

use crate::trusted_path::PathDistrust;

/// Why a host does not start, or does not end well.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Another runtime serves this socket already.
    #[error(
        "another runtime{} serves {}: stop it first, or choose another socket",
        whose(*.process),
        .socket.display()
    )]
    AlreadyRunning {
        /// The socket.
        socket: PathBuf,
        /// Its process, if that is known; 0 if this process's pid namespace does not have it.
        process: Option<i32>,
    },
    /// A runtime listened here and still runs, but its socket was removed.
    #[error(
        "a runtime {} holds {}, though its socket {} was removed, so that nobody can reach it: {}, or choose \
         another socket",
        show_process(*.process),
        .lock.display(),
        .socket.display(),
        how_to_end(*.process)
    )]
    SocketGone {
        /// The socket that was removed.
        socket: PathBuf,
        /// The lock that it holds.
        lock: PathBuf,
        /// Its process; 0 if this process's pid namespace does not have it.
        process: i32,
    },
    /// A runtime that was killed has not released the socket yet.
    #[error(
        "the runtime {} that serves {} {}: start again when it has ended, or choose another socket",
        show_process(*.process),
        .socket.display(),
        Standstill::of(*.process).unwrap_or(Standstill::Killed)
    )]
    Killed {
        /// The socket.
        socket: PathBuf,
        /// Its process.
        process: i32,
    },
    /// A runtime has the socket, but nobody can connect.
    #[error(
        "the runtime{} that has {} takes nobody: it is stopping, or about to serve; try again later, or choose another \
         socket",
        whose(*.process),
        .socket.display()
    )]
    TakesNobody {
        /// The socket.
        socket: PathBuf,
        /// Its process, if that is known; 0 if this process's pid namespace does not have it.
        process: Option<i32>,
    },
    /// Another program listens there.
    #[error("{0} is the socket of another program: choose another one")]
    ForeignSocket(PathBuf),
    /// The lock beside the socket cannot be taken.
    #[error("cannot lock {path}, which says whose the socket is: {}", show_refusal(.error))]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Something that cannot be a lock is in its place.
    #[error("{} {what}: remove it, or choose another socket", .path.display())]
    NotALock {
        /// The lock's path.
        path: PathBuf,
        /// What is wrong with what is there.
        what: String,
    },
    /// Others could replace what lies in the socket's folder.
    #[error(
        "others could put a socket of their own in the place of {socket}, or change its lock: {found}"
    )]
    OpenFolder {
        /// The socket.
        socket: PathBuf,
        /// Where they could.
        found: PathDistrust,
    },
    /// No socket can have such a long path.
    #[error(
        "the socket's path has {len} bytes, of which the system takes at most {MAX_SOCKET_PATH_BYTES}: \
         choose a shorter one than {}",
        .path.display()
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its bytes.
        len: usize,
    },
    /// Something that is not a socket is in the way.
    #[error("{0} exists and is not a socket: remove it, or choose another socket")]
    NotASocket(PathBuf),
    /// The socket's path cannot be used.
    #[error("cannot listen on {path}: {}", show_refusal(.error))]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A folder beneath which modules are to open paths is none, or cannot be reached.
    #[error("cannot allow paths beneath {}: {error}: name a folder that is there", .path.display())]
    AllowedPath {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A worker was to be pinned to a processor that cannot be used.
    #[error(
        "cannot pin a worker to processor {processor}: this process may use {}",
        show_ranges(.usable)
    )]
    NoProcessor {
        /// The processor.
        processor: usize,
        /// Those that can be used, in order.
        usable: Vec<usize>,
    },
    /// The system lacks what a host needs.
    #[error("cannot start the runtime: {action}: {}", show_refusal(.error))]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// The host belongs to the process from which this one was forked, and goes on there.
    #[error("the runtime belongs to the process that this one was forked from: start one here")]
    Forked,
    /// A pool could not be flushed as the host ended. There may be more; the log has all.
    #[error(
        "the runtime has stopped, and what was done last may be lost, as it was not flushed: {0}"
    )]
    Unflushed(ModuleError),
    /// The host did not come to its end in time ([`Config::stop_timeout`](crate::Config::stop_timeout)): threads of its
    /// own or of modules hang, in a system call for example. It serves nobody any more, and its sockets are given up.
    #[error(
        "the runtime has not come to its end in time, and what was done last may be lost: {0}; what hangs keeps its \
         threads, files and memory as long as this process is there"
    )]
    Unfinished(ModuleError),
}

impl HostError {
    /// Whether the runtime in the way may be gone in a moment.
    pub(crate) const fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Killed { .. } | Self::TakesNobody { .. } | Self::SocketGone { .. }
        )
    }

    /// What the system said, if it lacks something or refused it.
    #[must_use]
    pub fn system_error(&self) -> Option<&io::Error> {
        match self {
            Self::Listen { error, .. } | Self::System { error, .. } => Some(error),
            _ => None,
        }
    }

    pub(crate) fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::System { action, error }
    }
}

fn whose(process: Option<i32>) -> String {
    process.map_or_else(String::new, |process| format!(" {}", show_process(process)))
}

/// What the system said and, if descriptors or memory ran out, what helps. [`Shortage`] does not fit other errors here:
/// a file system without space is another matter, and an error of a thread says itself what is lacking.
fn show_refusal(error: &io::Error) -> String {
    match Shortage::of(error) {
        Some(
            shortage @ (Shortage::Descriptors | Shortage::SystemDescriptors | Shortage::Memory),
        ) => format!(
            "this process has {}: {} ({error})",
            shortage.what(),
            shortage.remedy()
        ),
        _ => error.to_string(),
    }
}

/// Which process a daemon is, in words that follow the daemon's name. 0 stands for a process that this one's pid
/// namespace does not have, so that it has no number here.
#[must_use]
pub fn show_process(process: i32) -> String {
    match process {
        0 => "in another pid namespace (a container's, for example)".to_owned(),
        _ => format!("with process id {process}"),
    }
}

/// How to end a daemon that cannot be reached.
fn how_to_end(process: i32) -> String {
    match process {
        0 => "end it there first, where `kill` reaches the process that the lock names".to_owned(),
        _ => format!("end it first (`kill {process}` stops it in good order)"),
    }
}

/// Numbers in order as ranges, for example `0-3, 6`.
pub(crate) fn show_ranges(numbers: &[usize]) -> String {
    let ranges: Vec<_> = numbers
        .chunk_by(|one, next| one + 1 == *next)
        .map(|range| match range {
            [one] => one.to_string(),
            [first, .., last] => format!("{first}-{last}"),
            [] => unreachable!("a chunk has an element"),
        })
        .collect();
    ranges.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_as_ranges() {
        for (numbers, shown) in [
            (&[][..], ""),
            (&[3], "3"),
            (&[0, 1, 2, 5, 7, 8], "0-2, 5, 7-8"),
        ] {
            assert_eq!(show_ranges(numbers), shown);
        }
    }
}
