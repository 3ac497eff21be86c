//! What the kernel says that processes and threads are doing.

/// Whether a thread of this process sleeps, by its thread id.
#[must_use]
pub fn thread_sleeps(thread: i32) -> bool {
    is_in_state(&format!("/proc/self/task/{thread}"), 'S')
}

/// Whether the process or thread with this folder in `/proc` is in this state: `S` for one that sleeps, `T` for one
/// that was stopped, `Z` for one that has ended and was not collected. One that is gone is in none.
#[must_use]
pub fn is_in_state(folder: &str, state: char) -> bool {
    let stat = std::fs::read_to_string(format!("{folder}/stat")).unwrap_or_default();
    // The name before it may hold anything.
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    after_name.starts_with(state)
}
