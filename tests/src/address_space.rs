//! Limits on address space that are met in the middle of a process's life.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// Gives a process that the caller started a limit on its address space in bytes, or takes it away again. What is there
/// stays.
///
/// # Panics
/// If the process is gone, or another user's.
pub fn limit_address_space(process: u32, limit: Option<u64>) {
    // What a started process has from the caller, and has kept: nobody but root may go beyond it.
    let maximum = getrlimit(Resource::As).maximum;
    let wanted = Rlimit {
        current: limit.or(maximum),
        maximum,
    };
    prlimit(Pid::from_raw(process as i32), Resource::As, wanted).expect("the limit is set");
}

/// The address space of the calling process in bytes.
///
/// # Panics
/// If the system does not say.
#[must_use]
pub fn address_space() -> u64 {
    let sizes = std::fs::read_to_string("/proc/self/statm").expect("sizes");
    let pages = sizes
        .split(' ')
        .next()
        .and_then(|first| first.parse::<u64>().ok());
    pages.expect("a number") * rustix::param::page_size() as u64
}
