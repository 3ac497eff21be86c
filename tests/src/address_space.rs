//! Limits on address space that are met in the middle of a process's life.

use chimaera_bdev_client::Runtime;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// Gives a process that the caller started a limit on its address space in bytes, or takes it away again. What is there
/// stays.
///
/// # Panics
/// If the process is gone, or another user's.
pub fn limit_address_space(process: u32, limit: Option<u64>) {
    // The process has inherited the hard limit from the caller, and only root may go beyond it.
    let maximum = getrlimit(Resource::As).maximum;
    let wanted = Rlimit {
        current: limit.or(maximum),
        maximum,
    };
    prlimit(Pid::from_raw(process as i32), Resource::As, wanted).expect("the limit is set");
}

/// The address space of the calling process in bytes.
fn address_space() -> u64 {
    let sizes = std::fs::read_to_string("/proc/self/statm").expect("sizes");
    let pages = sizes
        .split(' ')
        .next()
        .and_then(|first| first.parse::<u64>().ok());
    pages.expect("a number") * rustix::param::page_size() as u64
}

/// Connects with less and less address space left, to find how much is just enough; and then with a little less and a
/// little more than that. Gives how many of the latter attempts succeeded.
///
/// # Panics
/// If there is no daemon, or a refusal lacks its words.
#[must_use]
pub fn connect_at_limits() -> usize {
    const PAGE: u64 = 4096;
    // Leaves stacks behind, on which threads start without further address space.
    for _ in 0..9 {
        drop(Runtime::connect().expect("the daemon is there"));
    }
    let connects_with = |bytes: u64| {
        limit_address_space(std::process::id(), Some(address_space() + bytes));
        let connected = Runtime::connect().is_ok();
        limit_address_space(std::process::id(), None);
        connected
    };
    limit_address_space(std::process::id(), Some(address_space() + (16 << 20)));
    let refused = Runtime::connect();
    limit_address_space(std::process::id(), None);
    let refused = refused.expect_err("no room").to_string();
    for words in ["a segment of", "ulimit -v", "ConnectOptions::buffer_bytes"] {
        assert!(refused.contains(words), "{refused}");
    }
    let (mut too_little, mut enough) = (0, 512 << 20);
    assert!(connects_with(enough), "there is enough");
    while too_little + PAGE < enough {
        let middle = (too_little + enough) / 2 / PAGE * PAGE;
        let bound = if connects_with(middle) {
            &mut enough
        } else {
            &mut too_little
        };
        *bound = middle;
    }
    let around = (enough.saturating_sub(64 * PAGE)..enough + 64 * PAGE).step_by(PAGE as usize);
    around.filter(|&bytes| connects_with(bytes)).count()
}
