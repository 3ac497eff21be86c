//! The machine: its processors, and what uses them.

use std::fs;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::time::TimeValLike;
use nix::time::clock_getcpuclockid;
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::error::Result;

/// Which process runs on which processor.
#[derive(Clone, Debug)]
pub(crate) struct Processors {
    /// This process, the client.
    pub(crate) client: usize,
    /// The daemon's worker, and the partner of the yardsticks, which are never busy together.
    pub(crate) worker: usize,
    /// All that clients may use: all but the worker's.
    pub(crate) clients: Vec<usize>,
}

impl Processors {
    /// Divides those that this process may use.
    pub(crate) fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let all: Vec<usize> = (0..CpuSet::count())
            .filter(|&processor| allowed.is_set(processor).unwrap_or(false))
            .collect();
        match all[..] {
            [client, worker, ..] => Ok(Self {
                client,
                worker,
                clients: all.into_iter().filter(|&one| one != worker).collect(),
            }),
            _ => Err("this needs two processors".into()),
        }
    }
}

/// Pins the calling thread, and the threads it makes, to these processors.
pub(crate) fn pin_to(processors: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for &processor in processors {
        set.set(processor)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Lets another process use every processor that it may: from a pinned thread of this one it inherited only
/// one.
pub(crate) fn unpin(process: u32) -> Result<()> {
    let mut set = CpuSet::new();
    for processor in 0..CpuSet::count() {
        set.set(processor)?;
    }
    Ok(sched_setaffinity(
        Pid::from_raw(process.cast_signed()),
        &set,
    )?)
}

/// Lets this process have as many files as the system allows it.
pub(crate) fn raise_file_limit() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

/// Processor time used so far, in clock ticks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProcessorUsage {
    /// By this process and its children.
    ours: u64,
    /// By all programs, and by other machines on the same hardware.
    all: u64,
}

impl ProcessorUsage {
    pub(crate) fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let own = std::process::id().to_string();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ours = processes
            .filter_map(|process| {
                let name = process.file_name().into_string().ok()?;
                name.parse::<u32>().ok()?;
                let stat = fs::read_to_string(format!("/proc/{name}/stat")).ok()?;
                ticks_of_process(&stat, name == own, &own)
            })
            .sum();
        Self {
            ours,
            all: ticks_of_machine(&stat),
        }
    }

    /// Processor time that other programs used since `before`, in seconds.
    pub(crate) fn others_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all);
        let ours = self.ours.saturating_sub(before.ours);
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        all.saturating_sub(ours) as f64 / ticks as f64
    }
}

/// User, nice, system and steal of `/proc/stat`. Interrupts are left out: they are our devices'
/// too.
fn ticks_of_machine(stat: &str) -> u64 {
    let first = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = first
        .split_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    [0, 1, 2, 7]
        .iter()
        .filter_map(|&index| fields.get(index))
        .sum()
}

/// The time that a process used, if it is this one or a child of it; this one's with that of its children
/// that have ended.
fn ticks_of_process(stat: &str, is_own: bool, own: &str) -> Option<u64> {
    // The name, in parentheses, may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let used = match (is_own, fields.get(1)) {
        (true, _) => fields.get(11..15)?,
        (false, Some(&parent)) if parent == own => fields.get(11..13)?,
        _ => return None,
    };
    Some(
        used.iter()
            .filter_map(|field| field.parse::<u64>().ok())
            .sum(),
    )
}

/// Nanoseconds of processor time that a process has used, with its threads that have ended.
pub(crate) fn processor_time_ns(process: u32) -> Result<u64> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(process)?))?;
    Ok(u64::try_from(clock.now()?.num_nanoseconds())?)
}

/// Bytes of memory that a process has resident.
pub(crate) fn resident_bytes(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or("the process has no memory")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib << 10)
}

/// The machine, in words.
pub(crate) fn describe() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("of unknown make", |(_, name)| name);
    let count = processors
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{count} processors ({model}), Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_time_is_read() {
        let stat = "cpu  10 20 30 1000 40 50 60 70 0 0\ncpu0 1 2 3";
        assert_eq!(ticks_of_machine(stat), 10 + 20 + 30 + 70);
        assert_eq!(ticks_of_machine(""), 0);
    }

    #[test]
    fn a_process_counts_if_it_is_ours() {
        let stat = "7 (a) b) S 5 1 1 0 -1 4 0 0 0 0 100 20 3 4 20 0";
        assert_eq!(ticks_of_process(stat, true, "7"), Some(127));
        assert_eq!(ticks_of_process(stat, false, "5"), Some(120));
        assert_eq!(ticks_of_process(stat, false, "6"), None);
        assert_eq!(ticks_of_process("", false, "6"), None);
    }

    #[test]
    fn this_process_has_memory_and_used_time() -> Result<()> {
        let process = std::process::id();
        assert!(resident_bytes(process)? > 0);
        assert!(processor_time_ns(process)? > 0);
        Ok(())
    }
}
