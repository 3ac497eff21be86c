//! Linux AIO by raw system calls: an [`Engine`] per worker.
//!
//! Laws:
//! - A context is used by one thread at a time, which `&mut self` says: the ring that the kernel
//!   maps into the process has a single consumer.
//! - Results are taken from the mapped ring without a system call. If the ring is not the one
//!   known here (its magic says), `io_getevents` takes its place.
//! - Dropping a context waits until the kernel touches no memory of its operations any more.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use chimaera_bdev_format::image::PoolFile;
use nix::sys::eventfd::EventFd;

use super::engine::{DeviceCommand, DeviceResult, Engine, Opcode};

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;
/// The control block names an eventfd that is signalled when the operation ends.
const IOCB_FLAG_RESFD: u32 = 1;
const RING_MAGIC: u32 = 0xa10a_10a1;

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

/// `struct io_event` of `linux/aio_abi.h`.
#[derive(Clone, Copy)]
#[repr(C)]
struct IoEvent {
    data: u64,
    control_block: u64,
    result: i64,
    result2: i64,
}

/// Head of `struct aio_ring` of the kernel's `fs/aio.c`; the events follow at `header_len`.
#[repr(C)]
struct RingHeader {
    id: u32,
    entries: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
    compatible_features: u32,
    incompatible_features: u32,
    header_len: u32,
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
    assert!(size_of::<IoEvent>() == 32);
    assert!(size_of::<RingHeader>() == 32);
};

/// An AIO context on one file.
pub(super) struct Aio {
    context: libc::c_ulong,
    ring: Option<Ring>,
    file: PoolFile,
    wake: Arc<EventFd>,
    depth: usize,
    control_blocks: Vec<ControlBlock>,
    // Room for the addresses of `control_blocks` during a system call; empty otherwise. Numbers,
    // so that the value may move between threads.
    addresses: Vec<usize>,
}

impl Aio {
    /// Makes a context for `depth` operations in flight on `file`. `wake` is signalled when one
    /// ends.
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
            depth: depth as usize,
            control_blocks: Vec::with_capacity(depth as usize),
            addresses: Vec::with_capacity(depth as usize),
        })
    }

    fn control_block(&self, command: &DeviceCommand) -> ControlBlock {
        ControlBlock {
            data: command.tag,
            key: 0,
            rw_flags: 0,
            opcode: match command.opcode {
                Opcode::Read => IOCB_CMD_PREAD,
                Opcode::Write => IOCB_CMD_PWRITE,
            },
            priority: 0,
            file: descriptor(self.file.as_raw_fd()),
            address: command.address as u64,
            len_bytes: u64::from(command.len_bytes),
            // Lies within the pool, and no file is larger than `i64::MAX`.
            offset: command.offset_in_device.cast_signed(),
            reserved: 0,
            flags: IOCB_FLAG_RESFD,
            result_eventfd: descriptor(std::os::fd::AsFd::as_fd(&*self.wake).as_raw_fd()),
        }
    }

    /// Takes results by system call.
    fn reap_by_call(&self, results: &mut Vec<DeviceResult>) {
        const AT_ONCE: usize = 64;
        loop {
            let mut events = [IoEvent {
                data: 0,
                control_block: 0,
                result: 0,
                result2: 0,
            }; AT_ONCE];
            let now = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            // SAFETY: the context is alive; the kernel writes at most `AT_ONCE` events to the
            // array of that length and reads the timeout, both alive during the call.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    self.context,
                    0 as libc::c_long,
                    AT_ONCE as libc::c_long,
                    events.as_mut_ptr(),
                    &raw const now,
                )
            };
            // An error can only be an interrupted call: the next pass tries again.
            let count = usize::try_from(count).unwrap_or(0);
            results.extend(events[..count].iter().map(IoEvent::result));
            if count < AT_ONCE {
                return;
            }
        }
    }
}

impl Engine for Aio {
    unsafe fn submit(&mut self, batch: &[DeviceCommand]) -> io::Result<usize> {
        let batch = &batch[..batch.len().min(self.depth)];
        self.control_blocks.clear();
        for command in batch {
            let block = self.control_block(command);
            self.control_blocks.push(block);
        }
        self.addresses.clear();
        self.addresses.extend(
            self.control_blocks
                .iter()
                .map(|block| &raw const *block as usize),
        );
        // SAFETY: the context is alive, and the array holds as many addresses of control blocks
        // as is said. The kernel copies the blocks during the call. The memory that they name
        // stays valid until the operation ends, by this function's contract; ended operations
        // are all that `reap` reports, and `drop` waits for the others.
        let started = unsafe {
            libc::syscall(
                libc::SYS_io_submit,
                self.context,
                self.addresses.len() as libc::c_long,
                self.addresses.as_ptr(),
            )
        };
        usize::try_from(started).map_err(|_| io::Error::last_os_error())
    }

    fn reap(&mut self, results: &mut Vec<DeviceResult>) {
        match &mut self.ring {
            Some(ring) => ring.take(results),
            None => self.reap_by_call(results),
        }
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        // SAFETY: the context is alive and nobody uses it after this. The call returns when no
        // operation of the context is under way any more.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

impl IoEvent {
    fn result(&self) -> DeviceResult {
        DeviceResult {
            tag: self.data,
            result: self.result,
        }
    }
}

/// The results of a context, as the kernel maps them into the process.
struct Ring {
    header: *const RingHeader,
    events: *const IoEvent,
    entries: u32,
}

// SAFETY: the ring belongs to its context, which any one thread at a time may use.
unsafe impl Send for Ring {}

impl Ring {
    /// The ring of a context, if it has the known layout.
    ///
    /// # Safety
    /// The context is alive, and must outlive the ring.
    unsafe fn of(context: libc::c_ulong) -> Option<Self> {
        let header = context as *const RingHeader;
        // SAFETY: a context's id is the address at which the kernel mapped its ring, at least
        // one page. The fields read here do not change.
        let (magic, incompatible, header_len, entries) = unsafe {
            (
                (&raw const (*header).magic).read(),
                (&raw const (*header).incompatible_features).read(),
                (&raw const (*header).header_len).read(),
                (&raw const (*header).entries).read(),
            )
        };
        let len = size_of::<RingHeader>() + entries as usize * size_of::<IoEvent>();
        // A forked child has no use for it. A hint: whether it has it or not, it does nothing with it.
        // SAFETY: the ring is mapped in whole pages; this changes what children have of it.
        unsafe { libc::madvise(header.cast_mut().cast(), len, libc::MADV_DONTFORK) };
        let known = magic == RING_MAGIC
            && incompatible == 0
            && header_len as usize == size_of::<RingHeader>()
            && entries > 0;
        known.then(|| Self {
            header,
            // SAFETY: the events follow the header inside the mapping.
            events: unsafe { header.add(1) }.cast(),
            entries,
        })
    }

    fn take(&mut self, results: &mut Vec<DeviceResult>) {
        // SAFETY: the ring lives as long as its context (`of`). The two words are only accessed
        // as atomics: here, and by the kernel.
        let (head_word, tail_word) = unsafe { (&(*self.header).head, &(*self.header).tail) };
        // Acquire: pairs with the write barrier between the kernel's store of an event and its
        // store of the tail (`aio_complete`), so events before the tail are whole.
        let tail = tail_word.load(Ordering::Acquire) % self.entries;
        // Relaxed: nobody else stores the head.
        let mut head = head_word.load(Ordering::Relaxed) % self.entries;
        if head == tail {
            return;
        }
        while head != tail {
            // SAFETY: `head` is below the number of entries, which the kernel mapped; the event
            // was published by the tail, and the kernel does not write there again before the
            // head has moved past it.
            let event = unsafe { self.events.add(head as usize).read() };
            results.push(event.result());
            head = (head + 1) % self.entries;
        }
        // Release: the events were read before the kernel sees their places free
        // (`user_refill_reqs_available` reads the head before it lets new operations in).
        head_word.store(head, Ordering::Release);
    }
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
