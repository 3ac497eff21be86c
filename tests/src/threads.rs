//! The threads of other processes, as the kernel shows them.

use crate::daemon::Daemon;
use chimaera_testing::until;

/// The folders of a process's threads in `/proc`.
///
/// # Panics
/// If there is no such process.
#[must_use]
pub fn threads(process: u32) -> Vec<String> {
    std::fs::read_dir(format!("/proc/{process}/task"))
        .expect("it runs")
        .filter_map(|entry| Some(entry.ok()?.path().to_str()?.to_owned()))
        .collect()
}

/// The folders of a daemon's workers in `/proc`. A thread names itself when it begins to run,
/// which may be after the daemon has said that it serves.
///
/// # Panics
/// If there are not so many.
#[must_use]
pub fn workers(daemon: &Daemon, count: usize) -> Vec<String> {
    named(daemon, "chimaera-worker", count)
}

/// As [`workers`], the keepers of its file pools.
///
/// # Panics
/// If there are not so many.
#[must_use]
pub fn keepers(daemon: &Daemon, count: usize) -> Vec<String> {
    named(daemon, "chimaera-keeper", count)
}

fn named(daemon: &Daemon, name: &str, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    until("the threads run", || {
        found = threads(daemon.process_id());
        // The kernel keeps 15 bytes of a thread's name.
        found.retain(|thread| {
            std::fs::read_to_string(format!("{thread}/comm")).is_ok_and(|own| own.trim() == name)
        });
        found.len() == count
    });
    found
}
