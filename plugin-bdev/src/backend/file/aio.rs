//! Linux AIO by raw system calls: an [`Engine`] per worker.
//!
//! Laws:
//! - A context is used by one thread at a time, which `&mut self` says: the ring that the kernel
//!   maps into the process has a single consumer.
//! - Results are taken from the mapped ring without a system call. If the ring is not the one
//!   known here (its magic says), `io_getevents` takes its place.
//! - Dropping a context waits until the kernel touches no memory of its operations any more, also of those that the
//!   submitter has yet to hand over.
//! - What may keep whoever hands it to the kernel is left to the pool's [`submitter`](super::submitter), and so is what
//!   the kernel gives back because it was told not to wait.

use std::cell::UnsafeCell;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use chimaera_bdev_format::image::PoolFile;
use nix::sys::eventfd::EventFd;

use super::aio_ring::{IoEvent, Ring};
use super::blocking::{Blocking, Way};
use super::engine::{DeviceCommand, DeviceResult, Engine, Opcode};
use super::submitter::{Desk, SubmittingThread, io_submit};

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;
/// The control block names an eventfd that is signalled when the operation ends.
const IOCB_FLAG_RESFD: u32 = 1;

/// `struct iocb` of `linux/aio_abi.h`, in its little-endian layout.
#[derive(Clone, Copy)]
#[repr(C)]
struct ControlBlock {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    file: u32,
    address: u64,
    len_bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    result_eventfd: u32,
}

const _: () = {
    assert!(
        cfg!(target_endian = "little"),
        "key and rw_flags change places elsewhere"
    );
    assert!(size_of::<ControlBlock>() == 64);
    assert!(std::mem::offset_of!(ControlBlock, opcode) == 16);
    assert!(std::mem::offset_of!(ControlBlock, file) == 20);
    assert!(std::mem::offset_of!(ControlBlock, address) == 24);
    assert!(std::mem::offset_of!(ControlBlock, offset) == 40);
    assert!(std::mem::offset_of!(ControlBlock, result_eventfd) == 60);
};

impl ControlBlock {
    const NONE: Self = Self {
        data: 0,
        key: 0,
        rw_flags: 0,
        opcode: 0,
        priority: 0,
        file: 0,
        address: 0,
        len_bytes: 0,
        offset: 0,
        reserved: 0,
        flags: 0,
        result_eventfd: 0,
    };
}

/// An AIO context on one file.
pub(super) struct Aio {
    context: libc::c_ulong,
    ring: Option<Ring>,
    file: PoolFile,
    wake: Arc<EventFd>,
    /// One for each operation in flight. The kernel reads them, and names them in its results.
    blocks: Box<[UnsafeCell<ControlBlock>]>,
    /// Those of no operation.
    free: Vec<u32>,
    handing: Option<Handing>,
    // Room for addresses of control blocks during a system call; empty otherwise.
    addresses: Vec<usize>,
}

/// How operations are handed to the kernel where that must not keep the worker.
struct Handing {
    blocking: Blocking,
    submitter: Arc<SubmittingThread>,
    desk: Arc<Desk>,
}

impl Aio {
    /// Makes a context for `depth` operations in flight on `file`. `wake` is signalled when one ends. Submitting may
    /// block.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` if the system's number of AIO operations is exhausted.
    pub(super) fn new(file: PoolFile, wake: Arc<EventFd>, depth: u32) -> io::Result<Self> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes one word to `context`, which is zero as it demands.
        let result =
            unsafe { libc::syscall(libc::SYS_io_setup, libc::c_long::from(depth), &mut context) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `io_setup` just returned this context, whose address is that of its ring.
        let ring = unsafe { Ring::of(context) };
        Ok(Self {
            context,
            ring,
            file,
            wake,
            blocks: (0..depth)
                .map(|_| UnsafeCell::new(ControlBlock::NONE))
                .collect(),
            // The first ones first.
            free: (0..depth).rev().collect(),
            handing: None,
            addresses: Vec::with_capacity(depth as usize),
        })
    }

    /// Has the submitter hand to the kernel what may block there.
    pub(super) fn without_blocking(
        mut self,
        blocking: Blocking,
        submitter: &Arc<SubmittingThread>,
    ) -> Self {
        self.handing = Some(Handing {
            blocking,
            submitter: Arc::clone(submitter),
            desk: Desk::new(self.context, Arc::clone(&self.wake)),
        });
        self
    }

    fn control_block(&self, command: &DeviceCommand, way: Way) -> ControlBlock {
        ControlBlock {
            data: command.tag,
            rw_flags: match way {
                Way::NoWait => libc::RWF_NOWAIT,
                Way::Plain | Way::HandedOver => 0,
            },
            opcode: match command.opcode {
                Opcode::Read => IOCB_CMD_PREAD,
                Opcode::Write => IOCB_CMD_PWRITE,
            },
            file: descriptor(self.file.as_raw_fd()),
            address: command.address as u64,
            len_bytes: u64::from(command.len_bytes),
            // Lies within the pool, and no file is larger than `i64::MAX`.
            offset: command.offset_in_device.cast_signed(),
            flags: IOCB_FLAG_RESFD,
            result_eventfd: descriptor(std::os::fd::AsFd::as_fd(&*self.wake).as_raw_fd()),
            ..ControlBlock::NONE
        }
    }

    /// Hands control blocks to the submitter, which has no flags any more then. They are nobody else's until their
    /// operations have ended.
    fn hand_over(&self, handing: &Handing, addresses: &[usize]) {
        for &address in addresses {
            let block = address as *mut ControlBlock;
            // SAFETY: the block is one of `blocks`, and no operation's under way. It is kept until the operation has
            // ended, or `drop` has closed the desk; what it names is valid by the contract of `submit`.
            unsafe {
                (&raw mut (*block).rw_flags).write(0);
                let index = self.index_of(address as u64);
                handing.submitter.hand_over(&handing.desk, index, address);
            }
        }
        handing.submitter.wake();
    }

    #[cfg(test)]
    pub(super) fn blocking(&self) -> Option<Blocking> {
        Some(self.handing.as_ref()?.blocking)
    }

    /// The index of the control block with this address.
    fn index_of(&self, address: u64) -> u32 {
        index_of(&self.blocks, address)
    }

    /// Goes on after the kernel has taken only some of the operations that were offered, or none. Returns whether the
    /// rest is in other hands.
    #[cold]
    fn pass_on_rest(&mut self, taken: &io::Result<usize>, handed_over: usize) -> bool {
        let addresses = std::mem::take(&mut self.addresses);
        let rest = &addresses[*taken.as_ref().unwrap_or(&0)..];
        let errno = taken.as_ref().err().and_then(io::Error::raw_os_error);
        let is_passing = errno == Some(libc::EAGAIN) && handed_over == 0;
        let is_passed_on = match &mut self.handing {
            Some(handing) if !is_passing => {
                if let Some(libc::EOPNOTSUPP | libc::EINVAL) = errno {
                    // The file, or this kernel, does not know what it is told.
                    handing.blocking = Blocking::All;
                }
                true
            }
            _ => false,
        };
        if is_passed_on && let Some(handing) = &self.handing {
            self.hand_over(handing, rest);
        } else {
            for &address in rest {
                let index = self.index_of(address as u64);
                self.free.push(index);
            }
        }
        self.addresses = addresses;
        self.addresses.clear();
        is_passed_on
    }

    /// Has what the kernel would not do at once done by whoever may wait.
    #[cold]
    fn do_again(&mut self, addresses: &[usize], knows_flag: bool) {
        if let Some(handing) = &mut self.handing
            && !knows_flag
        {
            handing.blocking = Blocking::All;
        }
        if let Some(handing) = &self.handing {
            self.hand_over(handing, addresses);
        }
    }

    /// Takes results by system call.
    fn reap_by_call(context: libc::c_ulong, mut each: impl FnMut(&IoEvent)) {
        const AT_ONCE: usize = 64;
        loop {
            let mut events = [IoEvent::NONE; AT_ONCE];
            let now = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            // SAFETY: the context is alive; the kernel writes at most `AT_ONCE` events to the
            // array of that length and reads the timeout, both alive during the call.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    context,
                    0 as libc::c_long,
                    AT_ONCE as libc::c_long,
                    events.as_mut_ptr(),
                    &raw const now,
                )
            };
            // An error can only be an interrupted call: the next pass tries again.
            let count = usize::try_from(count).unwrap_or(0);
            events[..count].iter().for_each(&mut each);
            if count < AT_ONCE {
                return;
            }
        }
    }
}

impl Engine for Aio {
    unsafe fn submit(&mut self, batch: &[DeviceCommand]) -> io::Result<usize> {
        let batch = &batch[..batch.len().min(self.free.len())];
        if batch.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let blocking = self.handing.as_ref().map(|handing| handing.blocking);
        let mut handed_over = 0;
        for command in batch {
            let way = blocking.map_or(Way::Plain, |blocking| blocking.way(command.opcode));
            let block = self.control_block(command, way);
            let index = self.free.pop().expect("there are as many as in the batch");
            let place = self.blocks[index as usize].get();
            // SAFETY: the place is no operation's.
            unsafe { place.write(block) };
            match &self.handing {
                Some(handing) if way == Way::HandedOver => {
                    handed_over += 1;
                    // SAFETY: as in `hand_over`.
                    unsafe {
                        handing
                            .submitter
                            .hand_over(&handing.desk, index, place as usize);
                    }
                }
                _ => self.addresses.push(place as usize),
            }
        }
        if handed_over > 0
            && let Some(handing) = &self.handing
        {
            handing.submitter.wake();
        }
        if self.addresses.is_empty() {
            return Ok(batch.len());
        }
        // SAFETY: the context is alive, and the addresses are of control blocks that are kept until their operations
        // have ended. The memory that they name stays valid until the operation ends, by this function's contract;
        // ended operations are all that `reap` reports, and `drop` waits for the others.
        let taken = unsafe { io_submit(self.context, &self.addresses) };
        if !matches!(taken, Ok(count) if count == self.addresses.len())
            && !self.pass_on_rest(&taken, handed_over)
        {
            return taken;
        }
        self.addresses.clear();
        Ok(batch.len())
    }

    fn reap(&mut self, results: &mut Vec<DeviceResult>) {
        let Self {
            context,
            ring,
            blocks,
            free,
            handing,
            addresses: again,
            ..
        } = self;
        let mut knows_flag = true;
        let each = |event: &IoEvent| {
            let index = index_of(blocks, event.control_block);
            let Some(block) = blocks.get(index as usize) else {
                debug_assert!(false, "a result for an operation that there is not");
                return;
            };
            let would_wait = event.result == -i64::from(libc::EAGAIN);
            if (would_wait || event.result == -i64::from(libc::EOPNOTSUPP))
                // SAFETY: the operation has ended, so the kernel is done with the block.
                && unsafe { (*block.get()).rw_flags } != 0
            {
                knows_flag &= would_wait;
                again.push(block.get() as usize);
                return;
            }
            free.push(index);
            results.push(event.result());
        };
        match ring {
            Some(ring) => ring.take(each),
            None => Self::reap_by_call(*context, each),
        }
        if let Some(handing) = handing {
            handing.desk.take_refused(|index, errno| {
                free.push(index);
                results.push(DeviceResult {
                    // SAFETY: nobody else has the block any more.
                    tag: unsafe { (*blocks[index as usize].get()).data },
                    result: -i64::from(errno),
                });
            });
        }
        if !self.addresses.is_empty() {
            let again = std::mem::take(&mut self.addresses);
            self.do_again(&again, knows_flag);
            self.addresses = again;
            self.addresses.clear();
        }
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        if let Some(handing) = &self.handing {
            handing.desk.close();
        }
        // SAFETY: the context is alive and nobody uses it after this. The call returns when no
        // operation of the context is under way any more.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

/// The index of the control block with this address.
fn index_of(blocks: &[UnsafeCell<ControlBlock>], address: u64) -> u32 {
    let offset = address.wrapping_sub(blocks.as_ptr() as u64);
    (offset / size_of::<ControlBlock>() as u64) as u32
}

/// A file descriptor as control blocks carry it.
fn descriptor(file: RawFd) -> u32 {
    file.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::super::tests::engine::{file_and_wake, transfer_often};
    use super::*;

    fn engine(depth: u32) -> io::Result<Aio> {
        let (file, wake) = file_and_wake();
        Aio::new(file, wake, depth)
    }

    /// Has results taken more often than the ring has entries.
    fn check(mut aio: Aio) {
        let (file, wake) = (Arc::clone(&aio.file), Arc::clone(&aio.wake));
        transfer_often(&mut aio, &file, &wake);
    }

    #[test]
    fn results_come_out_of_the_ring_round_and_round() {
        let aio = engine(2).expect("a context");
        assert!(aio.ring.is_some(), "this kernel's ring is known");
        check(aio);
    }

    #[test]
    fn results_come_by_call_where_the_ring_is_unknown() {
        let mut aio = engine(2).expect("a context");
        aio.ring = None;
        check(aio);
    }

    #[test]
    fn a_depth_beyond_the_systems_is_told_from_other_errors() {
        let most = std::fs::read_to_string("/proc/sys/fs/aio-max-nr").expect("it has AIO");
        let most: u32 = most.trim().parse().expect("a number");
        let error = engine(most + 1).map(|_| ()).expect_err("too deep");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
