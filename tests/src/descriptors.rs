//! Limits on file descriptors, and what a process has of them.

use std::fs::{read_dir, read_to_string};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// Gives a process a limit on its descriptors: no further one gets a number from the limit on, and those
/// that are there stay. Gives the limit that it had.
///
/// # Panics
/// If the process is gone, or another user's.
pub fn limit_descriptors(process: u32, limit: u64) -> u64 {
    let maximum = if process == std::process::id() {
        // It may have no descriptor left to open the file with.
        getrlimit(Resource::Nofile).maximum
    } else {
        hard_limit(process)
    };
    let wanted = Rlimit {
        current: Some(limit),
        // Kept, so that the limit can be raised again.
        maximum,
    };
    let process = Pid::from_raw(process as i32);
    let before = prlimit(process, Resource::Nofile, wanted).expect("the limit is set");
    before.current.unwrap_or(u64::MAX)
}

/// Another process's hard limit on descriptors; none if it is unlimited.
fn hard_limit(process: u32) -> Option<u64> {
    let limits = read_to_string(format!("/proc/{process}/limits")).expect("the process is there");
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let hard = line
        .expect("a limit on open files")
        .split_whitespace()
        .nth(1);
    hard.expect("the hard limit").parse().ok()
}

/// The limit with which a process that has these descriptors can have so many more.
#[must_use]
pub fn limit_for(descriptors: &[u64], more: u64) -> u64 {
    let mut free = (0..).filter(|number| !descriptors.contains(number));
    // The system gives the lowest one.
    free.nth(more as usize).expect("there are numbers enough")
}

/// The descriptors that a process has.
///
/// # Panics
/// If the process is gone, or another user's.
#[must_use]
pub fn descriptors(process: u32) -> Vec<u64> {
    let folder = read_dir(format!("/proc/{process}/fd")).expect("the process is there");
    let numbers = folder.map(|file| file.expect("a descriptor").file_name());
    let mut numbers: Vec<u64> = numbers
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}
