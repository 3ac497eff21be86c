//! How much memory there is.

#![forbid(unsafe_code)]

use std::fs::read_to_string;
use std::path::Path;

/// The most bytes of memory that this process can have: the machine's, or what its control group leaves of that.
/// `None` where neither can be read. Reads files of the kernel's; does not block.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    [of_the_machine(), of_the_control_group()]
        .into_iter()
        .flatten()
        .min()
}

fn of_the_machine() -> Option<u64> {
    let text = read_to_string("/proc/meminfo").ok()?;
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = total.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The lowest limit of the process's control group and of those that contain it.
fn of_the_control_group() -> Option<u64> {
    let groups = read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = Path::new("/sys/fs/cgroup");
    let folder = root.join(group);
    let folders = folder
        .ancestors()
        .take_while(|folder| folder.starts_with(root));
    let limit = |folder: &Path| {
        let text = read_to_string(folder.join("memory.max")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    folders.filter_map(limit).min()
}
