//! io_uring: an [`Engine`] per worker.
//!
//! Laws:
//! - A ring is used by one thread at a time, which `&mut self` says. It may move to another thread, which
//!   destroys it in the end. So it is not bound to a thread (`IORING_SETUP_SINGLE_ISSUER`, and
//!   `IORING_SETUP_DEFER_TASKRUN` with it): then only its worker could wait for its operations.
//! - Results are taken from the mapped ring without a system call. Where the kernel may have put
//!   off making them, it says so in the ring (`IORING_SQ_TASKRUN`), and only then is it called.
//! - At most `depth` operations are in flight, and there is room for twice as many results: the
//!   ring of results never overflows.
//! - Dropping a ring waits until the kernel touches no memory of its operations any more.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use chimaera_bdev_format::image::PoolFile;
use io_uring::types::Fixed;
use io_uring::{EnterFlags, opcode, squeue};
use nix::sys::eventfd::EventFd;

use super::blocking::Blocking;
use super::engine::{DeviceCommand, DeviceResult, Engine, Opcode};
use super::rings::KernelRing;

/// Where the ring's table of files holds the pool's.
const POOL_FILE: Fixed = Fixed(0);

/// A ring on one file.
pub(super) struct Uring {
    ring: KernelRing,
    file: PoolFile,
    wake: Arc<EventFd>,
    depth: usize,
    /// What every operation carries.
    flags: squeue::Flags,
    /// Operations in the ring whose results were not taken yet.
    in_flight: usize,
    /// The tags of the last of them, if the kernel would not take them from the ring.
    kept_back: VecDeque<u64>,
    /// Why the kernel takes nothing any more. It is offered nothing more: what was kept back must not start
    /// after its failure was reported.
    refused: Option<i32>,
    /// Errors that take the place of the next calls' results.
    #[cfg(test)]
    pub(super) refusals: VecDeque<i32>,
}

impl Uring {
    /// Takes a ring for `depth` operations in flight on `file`, or for as many as it has room for. `wake` is signalled
    /// when one ends. Where any of them may keep whoever hands it to the kernel, threads of the kernel's begin with it
    /// at once; elsewhere they take over what would have to wait.
    ///
    /// # Errors
    /// The kernel's, if it refuses anything that the engine needs.
    pub(super) fn new(
        file: PoolFile,
        wake: Arc<EventFd>,
        depth: u32,
        blocking: Blocking,
    ) -> io::Result<Self> {
        let ring = KernelRing::new(depth)?;
        register(&ring, &file, &wake)?;
        Ok(Self {
            depth: ring.depth() as usize,
            ring,
            file,
            wake,
            flags: match blocking {
                Blocking::All => squeue::Flags::ASYNC,
                _ => squeue::Flags::empty(),
            },
            in_flight: 0,
            kept_back: VecDeque::new(),
            refused: None,
            #[cfg(test)]
            refusals: VecDeque::new(),
        })
    }

    /// Has the kernel take what is in the ring. Returns how many operations it left there, and
    /// its error.
    fn enter(&mut self) -> (usize, Option<io::Error>) {
        #[cfg(test)]
        if let Some(errno) = self.refusals.pop_front() {
            let left = self.ring.submission().len();
            return (left, Some(io::Error::from_raw_os_error(errno)));
        }
        let error = self.ring.submit().err();
        (self.ring.submission().len(), error)
    }

    /// Takes over what the kernel left in the ring, to offer it again at the next pass.
    #[cold]
    fn keep_back(&mut self, tags: impl Iterator<Item = u64>, error: Option<io::Error>) {
        self.kept_back.extend(tags);
        if let Some(error) = error
            && !is_passing(&error)
        {
            self.refused = Some(error.raw_os_error().unwrap_or(libc::EIO));
        }
        // No result may be on its way, and the worker must not sleep. This fails only if the
        // counter is full, and then the file is readable anyway.
        let _ = self.wake.write(1);
    }

    /// Offers the kernel what it would not take.
    #[cold]
    fn offer_again(&mut self, results: &mut Vec<DeviceResult>) {
        if self.refused.is_none() {
            let (left, error) = self.enter();
            self.kept_back.drain(..self.kept_back.len() - left);
            if left > 0 {
                self.keep_back(std::iter::empty(), error);
            }
        }
        if let Some(errno) = self.refused {
            self.in_flight -= self.kept_back.len();
            results.extend(self.kept_back.drain(..).map(|tag| DeviceResult {
                tag,
                result: -i64::from(errno),
            }));
        }
    }

    /// Puts another ring in the place of this one, in which the kernel has nothing under way.
    fn renew(&mut self) -> io::Result<()> {
        // What it holds would start when the next pool submits.
        self.ring.spoil();
        let ring = KernelRing::new(self.depth as u32)?;
        register(&ring, &self.file, &self.wake)?;
        self.depth = self.depth.min(ring.depth() as usize);
        self.ring = ring;
        Ok(())
    }

    /// Has the kernel run what it put off, and waits for so many results.
    fn wait(&mut self, results: usize) -> io::Result<usize> {
        let flags = EnterFlags::GETEVENTS.bits();
        // SAFETY: there is no argument, and nothing is submitted.
        unsafe {
            let submitter = self.ring.submitter();
            submitter.enter::<libc::sigset_t>(0, results as u32, flags, None)
        }
    }

    fn take(&mut self, mut result: impl FnMut(DeviceResult)) -> usize {
        let mut count = 0;
        for entry in self.ring.completion() {
            result(DeviceResult {
                tag: entry.user_data(),
                result: i64::from(entry.result()),
            });
            count += 1;
        }
        self.in_flight -= count;
        count
    }
}

impl Engine for Uring {
    unsafe fn submit(&mut self, batch: &[DeviceCommand]) -> io::Result<usize> {
        if let Some(errno) = self.refused {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let room = match self.kept_back.is_empty() {
            true => self.depth - self.in_flight,
            false => 0,
        };
        let mut count = 0;
        {
            let mut queue = self.ring.submission();
            for command in batch.iter().take(room) {
                // SAFETY: the memory that it names stays valid until the operation ends, by this
                // function's contract; ended operations are all that `reap` reports, and `drop`
                // waits for the others.
                if unsafe { queue.push(&queue_entry(command, self.flags)) }.is_err() {
                    break;
                }
                count += 1;
            }
        }
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.in_flight += count;
        let (left, error) = self.enter();
        if left > 0 {
            let rest = batch[count - left..count].iter();
            self.keep_back(rest.map(|command| command.tag), error);
        }
        Ok(count)
    }

    fn reap(&mut self, results: &mut Vec<DeviceResult>) {
        if self.in_flight == 0 {
            return;
        }
        if !self.kept_back.is_empty() {
            self.offer_again(results);
        }
        let taken = self.take(|result| results.push(result));
        if taken == 0 && self.ring.submission().taskrun() {
            // An error is an interruption, after which the flag still stands.
            let _ = self.wait(0);
            self.take(|result| results.push(result));
        }
    }

    fn kept_back(&self) -> usize {
        self.kept_back.len()
    }

    /// What is kept back stands in the ring, and would start with whatever is submitted next: so another ring
    /// takes its place. If none can be made, nothing is submitted any more.
    #[cold]
    fn give_up(&mut self, tags: &mut Vec<u64>) {
        if self.kept_back.is_empty() || self.in_flight > self.kept_back.len() {
            return;
        }
        self.in_flight = 0;
        tags.extend(self.kept_back.drain(..));
        if let Err(error) = self.renew() {
            self.refused = Some(error.raw_os_error().unwrap_or(libc::EIO));
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // What the kernel never took it does not touch: nothing is submitted here.
        while self.in_flight > self.kept_back.len() {
            if self.take(|_| {}) == 0 && self.wait(1).is_err() {
                // Interrupted: results come without being waited for, too.
                std::thread::yield_now();
            }
        }
        if !self.kept_back.is_empty() || self.refused.is_some() {
            self.ring.spoil();
        }
    }
}

fn queue_entry(command: &DeviceCommand, flags: squeue::Flags) -> squeue::Entry {
    let DeviceCommand {
        tag,
        opcode,
        address,
        len_bytes,
        offset_in_device,
    } = *command;
    let entry = match opcode {
        Opcode::Read => opcode::Read::new(POOL_FILE, address, len_bytes)
            .offset(offset_in_device)
            .build(),
        Opcode::Write => opcode::Write::new(POOL_FILE, address, len_bytes)
            .offset(offset_in_device)
            .build(),
    };
    entry.user_data(tag).flags(flags)
}

/// Tells a ring of the pool's file, and whom to wake.
fn register(ring: &KernelRing, file: &File, wake: &EventFd) -> io::Result<()> {
    let submitter = ring.submitter();
    submitter.register_files(&[file.as_raw_fd()])?;
    submitter.register_eventfd(wake.as_fd().as_raw_fd())
}

/// Whether the same call may succeed later.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::EINTR | libc::EBUSY | libc::ENOMEM)
    )
}
