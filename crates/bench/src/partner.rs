//! The partner: a copy of this program on the worker's processor, with which the machine's own
//! minimum is measured between two processes.
//!
//! Its standard input is the shared page, its standard output an eventfd, and its working folder a temporary
//! one of its own.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::error::Result;
use crate::machine::pin_to;
use crate::memory::{PartnerMapping, PartnerPage, RING_ENTRIES, RingLine, futex_wait, futex_wake};
use crate::peers::iceoryx2::server::Iceoryx2Server;
use crate::timing::{BATCH, median};

/// The subcommand by which the program becomes a partner.
pub const PARTNER_COMMAND: &str = "bench-partner";

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(20);

/// Batches of a look at the floor.
const FLOOR_BATCHES: u64 = 400;

const END: u32 = 0;
const PING_PONG: u32 = 1;
const RING: u32 = 2;
const ANSWER: u32 = 3;
const SERVE_ICEORYX2: u32 = 4;
const STOP_SERVING: u32 = 5;

/// Word 1 of the ring's last entry.
const LAST: u64 = 1;

/// The other process.
pub(crate) struct Partner {
    page: PartnerMapping,
    bell: EventFd,
    /// None if a thread of a test stands in for it.
    child: Option<Child>,
    #[cfg_attr(
        not(feature = "peer-iceoryx2"),
        expect(dead_code, reason = "only iceoryx2 puts something into it")
    )]
    folder: TempDir,
}

impl Partner {
    pub(crate) fn start(processor: usize) -> Result<Self> {
        let folder = new_folder()?;
        let (page, file) = PartnerMapping::create()?;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        let child = Command::new(std::env::current_exe()?)
            .arg(PARTNER_COMMAND)
            .arg(processor.to_string())
            .current_dir(folder.path())
            // An interrupt at the terminal should not reach the partner.
            .process_group(0)
            .stdin(Stdio::from(file))
            .stdout(Stdio::from(bell.as_fd().try_clone_to_owned()?))
            .spawn()?;
        Ok(Self {
            page,
            bell,
            child: Some(child),
            folder,
        })
    }

    /// Nanoseconds that a cache line takes to the other process and back: the floor under
    /// everything that two processes do together.
    pub(crate) fn ping_pong(&self) -> Result<f64> {
        let trips = FLOOR_BATCHES * BATCH;
        let job = self.begin(PING_PONG, trips);
        let ball = &self.page.ball.0;
        let mut batches = Vec::new();
        let mut next = 0;
        for _ in 0..FLOOR_BATCHES {
            let begin = Instant::now();
            for _ in 0..BATCH {
                ball.store(next + 1, Release);
                next += 2;
                spin_until(|| ball.load(Acquire) == next)?;
            }
            batches.push(begin.elapsed().as_secs_f64() * 1e9 / BATCH as f64);
        }
        self.end(job)?;
        Ok(median(&mut batches).unwrap_or(f64::NAN))
    }

    /// Entries per second through a ring of descriptors without any check, `depth` in flight:
    /// as many cache lines travel as for tasks, and nothing else is done.
    pub(crate) fn ring_rate(&self, depth: u64, window: Duration) -> Result<f64> {
        let job = self.begin(RING, 0);
        let wait_for = |task: u64| {
            let record = &self.page.records[task as usize % RING_ENTRIES];
            spin_until(|| record.0[0].load(Acquire) == task)
        };
        let begin = Instant::now();
        let mut task = 0;
        let mut is_last = false;
        while !is_last {
            task += 1;
            if task % 1024 == 0 {
                is_last = begin.elapsed() >= window;
            }
            if task > depth {
                wait_for(task - depth)?;
            }
            write_entry(
                &self.page.entries[task as usize % RING_ENTRIES],
                task,
                |word| {
                    if word == 1 {
                        u64::from(is_last) * LAST
                    } else {
                        task
                    }
                },
            );
        }
        wait_for(task)?;
        let rate = task as f64 / begin.elapsed().as_secs_f64();
        self.end(job)?;
        Ok(rate)
    }

    /// Round trips by way of the kernel, each after a silence: this process rings an eventfd on
    /// which the partner sleeps, and sleeps on a futex until the partner answers.
    pub(crate) fn wake_ups(&self, count: u32, silence: Duration) -> Result<Vec<f64>> {
        let job = self.begin(ANSWER, u64::from(count));
        let answers = &self.page.answers.0;
        let mut nanos = Vec::new();
        for _ in 0..count {
            std::thread::sleep(silence);
            let before = answers.load(Relaxed);
            let begin = Instant::now();
            self.bell.write(1)?;
            while answers.load(Acquire) == before {
                futex_wait(answers, before);
            }
            nanos.push(begin.elapsed().as_secs_f64() * 1e9);
        }
        self.end(job)?;
        Ok(nanos)
    }

    /// Lets the partner serve iceoryx2's requests, in its folder, while `work` runs.
    #[cfg(feature = "peer-iceoryx2")]
    pub(crate) fn while_it_serves_iceoryx2<T>(
        &self,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        self.begin(SERVE_ICEORYX2, 0);
        let result = work();
        // The partner serves until there is another command. If `work` failed, the partner is not waited for.
        let job = self.begin(STOP_SERVING, 0);
        let result = result?;
        self.end(job)?;
        Ok(result)
    }

    /// The folder in which the partner works.
    #[cfg(feature = "peer-iceoryx2")]
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn begin(&self, command: u32, amount: u64) -> u32 {
        let page = &*self.page;
        page.ball.0.store(0, Relaxed);
        for entry in page.entries.iter().chain(&page.records) {
            entry.0[0].store(0, Relaxed);
        }
        page.command.store(command, Relaxed);
        page.amount.store(amount, Relaxed);
        let job = page.commands.0.fetch_add(1, Release) + 1;
        futex_wake(&page.commands.0);
        job
    }

    fn end(&self, job: u32) -> Result<()> {
        spin_until(|| self.page.done.0.load(Acquire) == job)
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        self.begin(END, 0);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}

/// Carries out the parent's commands, until it says to end or is gone.
///
/// # Errors
/// This process was not started as a partner, or its parent went silent.
pub fn run_partner(processor: usize) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    pin_to(&[processor])?;
    let page = PartnerMapping::open(std::io::stdin())?;
    let folder = std::env::current_dir()?;
    let bell = std::io::stdout().as_fd().try_clone_to_owned()?;
    obey(&page, &bell, &folder)
}

fn new_folder() -> Result<TempDir> {
    Ok(tempfile::Builder::new()
        .prefix("chimaera-bench-")
        .tempdir()?)
}

/// Carries out commands until the last.
fn obey(page: &PartnerPage, bell: &OwnedFd, folder: &Path) -> Result<()> {
    let mut seen = 0;
    let mut iceoryx2 = None;
    loop {
        while page.commands.0.load(Acquire) == seen {
            futex_wait(&page.commands.0, seen);
        }
        seen += 1;
        let amount = page.amount.load(Relaxed);
        match page.command.load(Relaxed) {
            END => return Ok(()),
            PING_PONG => pong(page, amount)?,
            RING => serve_ring(page)?,
            ANSWER => answer(page, bell, amount)?,
            SERVE_ICEORYX2 => {
                let server = match iceoryx2.take() {
                    Some(server) => server,
                    None => Iceoryx2Server::new(folder)?,
                };
                server.serve_while(|| page.commands.0.load(Acquire) == seen)?;
                iceoryx2 = Some(server);
            }
            // The serving ended when this command came.
            STOP_SERVING => {}
            other => return Err(format!("there is no command {other}").into()),
        }
        page.done.0.store(seen, Release);
    }
}

fn pong(page: &PartnerPage, trips: u64) -> Result<()> {
    for trip in 0..trips {
        spin_until(|| page.ball.0.load(Acquire) == 2 * trip + 1)?;
        page.ball.0.store(2 * trip + 2, Release);
    }
    Ok(())
}

fn serve_ring(page: &PartnerPage) -> Result<()> {
    for task in 1u64.. {
        let position = task as usize % RING_ENTRIES;
        let entry = &page.entries[position].0;
        spin_until(|| entry[0].load(Acquire) == task)?;
        let words: [u64; 8] = std::array::from_fn(|word| entry[word].load(Relaxed));
        write_entry(&page.records[position], task, |word| words[word]);
        if words[1] == LAST {
            break;
        }
    }
    Ok(())
}

fn answer(page: &PartnerPage, bell: &OwnedFd, times: u64) -> Result<()> {
    for _ in 0..times {
        nix::unistd::read(bell, &mut [0; 8])?;
        page.answers.0.fetch_add(1, Release);
        futex_wake(&page.answers.0);
    }
    Ok(())
}

/// Writes a whole cache line. The word that says which task it holds comes last.
#[inline]
fn write_entry(entry: &RingLine, task: u64, words: impl Fn(usize) -> u64) {
    for (index, word) in entry.0.iter().enumerate().skip(1) {
        word.store(words(index), Relaxed);
    }
    entry.0[0].store(task, Release);
}

/// Spins until `is_so`; an error if that takes so long that the other side must be gone.
#[inline]
pub(crate) fn spin_until(mut is_so: impl FnMut() -> bool) -> Result<()> {
    let mut looks = 0u32;
    let mut begin = None;
    while !is_so() {
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(1 << 22)
            && begin.get_or_insert_with(Instant::now).elapsed() > PATIENCE
        {
            return Err("the other process does not answer: it hangs or has ended".into());
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::thread::JoinHandle;

    use super::*;

    /// A thread in the place of the other process; it ends after the partner was dropped.
    pub(crate) fn partner_in_a_thread() -> Result<(Partner, JoinHandle<Result<()>>)> {
        let (page, file) = PartnerMapping::create()?;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        let (other_page, other_bell) = (
            PartnerMapping::open(file)?,
            bell.as_fd().try_clone_to_owned()?,
        );
        let folder = new_folder()?;
        let other_folder = folder.path().to_owned();
        let other = std::thread::spawn(move || obey(&other_page, &other_bell, &other_folder));
        let partner = Partner {
            page,
            bell,
            child: None,
            folder,
        };
        Ok((partner, other))
    }

    #[test]
    fn every_yardstick_measures_something() -> Result<()> {
        let (partner, other) = partner_in_a_thread()?;
        let window = Duration::from_millis(1);
        assert!(partner.ring_rate(32, window)? > 0.0);
        assert!(partner.ring_rate(1, window)? > 0.0);
        let wake_ups = partner.wake_ups(3, window)?;
        assert!(wake_ups.len() == 3 && wake_ups.iter().all(|&nanos| nanos > 0.0));
        drop(partner);
        other.join().expect("the other side does not panic")
    }
}
