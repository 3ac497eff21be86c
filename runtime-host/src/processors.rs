//! Processors that workers are pinned to.

use std::io;

use chimaera_thread as thread;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::error::HostError;

/// The calling thread.
const THIS_THREAD: Pid = Pid::from_raw(0);

/// Whether workers can be pinned to these processors. Blocks for a moment.
///
/// # Errors
/// [`HostError::NoProcessor`] for the first that does not exist, or that this process may not use.
pub fn check_processors(processors: &[usize]) -> Result<(), HostError> {
    if processors.is_empty() {
        return Ok(());
    }
    let usable = usable().map_err(HostError::system("asking for its processors"))?;
    match processors.iter().find(|wanted| !usable.contains(wanted)) {
        Some(&processor) => Err(HostError::NoProcessor { processor, usable }),
        None => Ok(()),
    }
}

/// The processors that this process may use, in order, whatever the affinity of the caller is. A thread of its own sets
/// its affinity to all processors; the kernel gives it those that the process may use.
fn usable() -> io::Result<Vec<usize>> {
    let ask = || -> nix::Result<Vec<usize>> {
        let mut all = CpuSet::new();
        for processor in 0..CpuSet::count() {
            all.set(processor)?;
        }
        sched_setaffinity(THIS_THREAD, &all)?;
        let given = sched_getaffinity(THIS_THREAD)?;
        let is_given = |&processor: &usize| given.is_set(processor).unwrap_or(false);
        Ok((0..CpuSet::count()).filter(is_given).collect())
    };
    let asked = thread::spawn("chimaera-processors", ask)?.join();
    Ok(asked.map_err(|_| io::Error::other("the thread that asks panicked"))??)
}

/// Pins the calling thread.
pub(crate) fn pin_to(processor: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(THIS_THREAD, &set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::show_ranges;

    #[test]
    fn a_processor_is_refused_that_is_not_there_and_those_that_are_are_named() {
        let usable = usable().expect("they are known");
        check_processors(&usable).expect("each is one");
        let beyond = usable.last().expect("there is one") + 1;
        for wanted in [beyond, 1 << 20] {
            let error = check_processors(&[usable[0], wanted]).expect_err("it is not there");
            let text = error.to_string();
            assert!(text.contains(&format!("processor {wanted}")), "{text}");
            assert!(text.contains(&show_ranges(&usable)), "{text}");
        }
    }
}
