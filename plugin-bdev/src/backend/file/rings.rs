//! The kernel's rings: made so that nothing but reading and writing a registered file can be asked of them, and, where
//! a daemon gives up the right to make rings, kept in stock.
//!
//! What is done through a ring is no system call, so no filter of system calls sees it. A ring that is restricted
//! carries out no other operation, on no other file than one that was registered in it.

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;

use chimaera_fork::Private;
use io_uring::register::Restriction;
use io_uring::squeue::Flags;
use io_uring::{IoUring, Probe, opcode};
use parking_lot::Mutex;

/// Operations in flight in a ring from the stock, at most. A pool with a larger `io_depth` has so many.
const STOCK_DEPTH: u32 = 256;

/// Rings that were made in advance. `None` where rings are made as they are needed.
static STOCK: Mutex<Option<Stock>> = Mutex::new(None);

struct Stock {
    rings: Vec<Private<IoUring>>,
    /// As [`interrupts_workers`].
    interrupts_workers: bool,
}

/// Given where all rings of the stock are in use.
pub(super) const STOCK_IS_EMPTY: i32 = libc::EUSERS;

/// Calls of `io_uring_register` that a ring permits.
const REGISTERED: [u8; 4] = [
    2, // IORING_REGISTER_FILES
    3, // IORING_UNREGISTER_FILES
    4, // IORING_REGISTER_EVENTFD
    5, // IORING_UNREGISTER_EVENTFD
];

/// Makes so many rings, or as many as the system gives. From then on pools have those and no others. Gives their
/// number, and why they are not more.
pub(crate) fn stock(count: usize) -> (usize, Option<io::Error>) {
    let mut rings = Vec::with_capacity(count);
    let mut refusal = None;
    while rings.len() < count {
        match private_ring(STOCK_DEPTH) {
            Ok(ring) => rings.push(ring),
            Err(error) => {
                refusal = Some(error);
                break;
            }
        }
    }
    let made = rings.len();
    let interrupts_workers = interrupts_workers();
    *STOCK.lock() = Some(Stock {
        rings,
        interrupts_workers,
    });
    (made, refusal)
}

/// A ring that was checked, without a file and without operations in flight.
pub(super) struct KernelRing {
    /// `None` only while it is dropped.
    ring: Option<Private<IoUring>>,
    /// Operations that can be in flight.
    depth: u32,
    /// Whether it goes back into the stock.
    goes_back: bool,
}

impl KernelRing {
    /// A ring for so many operations in flight, or for fewer if it is from the stock.
    ///
    /// # Errors
    /// The kernel's; [`STOCK_IS_EMPTY`].
    pub(super) fn new(depth: u32) -> io::Result<Self> {
        let (ring, depth, goes_back) = match STOCK.lock().as_mut() {
            Some(stock) => {
                let ring = stock.rings.pop();
                let ring = ring.ok_or_else(|| io::Error::from_raw_os_error(STOCK_IS_EMPTY))?;
                (ring, depth.min(STOCK_DEPTH), true)
            }
            None => (private_ring(depth)?, depth, false),
        };
        Ok(Self {
            ring: Some(ring),
            depth,
            goes_back,
        })
    }

    /// Operations that can be in flight.
    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    /// Has the ring end with this value: there are operations in it that were never carried out, and must not be.
    pub(super) fn spoil(&mut self) {
        self.goes_back = false;
    }
}

impl Deref for KernelRing {
    type Target = IoUring;

    fn deref(&self) -> &IoUring {
        self.ring.as_ref().expect("there until it is dropped")
    }
}

impl DerefMut for KernelRing {
    fn deref_mut(&mut self) -> &mut IoUring {
        self.ring.as_mut().expect("there until it is dropped")
    }
}

impl Drop for KernelRing {
    fn drop(&mut self) {
        let Some(ring) = self.ring.take() else {
            return;
        };
        // The kernel takes a ring apart at its leisure. This closes the file together with the pool; if it fails, the
        // file stays open until the ring's end.
        let unregistered = ring.submitter().unregister_files();
        if !self.goes_back
            || unregistered.is_err()
            || ring.submitter().unregister_eventfd().is_err()
        {
            return;
        }
        if let Some(stock) = STOCK.lock().as_mut() {
            stock.rings.push(ring);
        }
    }
}

/// Whether a ring's results interrupt its worker here, as on kernels before 5.19.
pub(super) fn interrupts_workers() -> bool {
    match STOCK.lock().as_ref() {
        Some(stock) => stock.interrupts_workers,
        None => matches!(cooperative_ring(1), Err(error) if is_unknown(&error)),
    }
}

/// As [`new_ring`], but kept from forked children, which would keep the pool's file open with it, and so its
/// lock. It is checked, and restricted.
fn private_ring(depth: u32) -> io::Result<Private<IoUring>> {
    let ring = Private::with_file(|| new_ring(depth), AsRawFd::as_raw_fd)?;
    let mut ring = ring.closed_apart();
    check_operations(&mut ring)?;
    Ok(ring)
}

fn new_ring(depth: u32) -> io::Result<IoUring> {
    match cooperative_ring(depth) {
        Err(error) if is_unknown(&error) => {
            match restricted(IoUring::builder().dontfork(), depth) {
                // Before Linux 5.10 no ring can be restricted.
                Err(error) if is_unknown(&error) => {
                    let ring = IoUring::builder().dontfork().build(depth)?;
                    check_support(&ring)?;
                    Ok(ring)
                }
                other => other,
            }
        }
        other => other,
    }
}

/// Makes a ring whose results the kernel makes when the worker calls it anyway, instead of interrupting the
/// worker, and which goes on with the next operation when one is refused.
fn cooperative_ring(depth: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .dontfork()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all();
    restricted(&mut builder, depth)
}

/// Makes a ring that does nothing yet, says what it may do, and has it begin.
fn restricted(builder: &mut io_uring::Builder, depth: u32) -> io::Result<IoUring> {
    let ring = builder.setup_r_disabled().build(depth)?;
    check_support(&ring)?;
    let mut permitted = vec![
        Restriction::sqe_op(opcode::Read::CODE),
        Restriction::sqe_op(opcode::Write::CODE),
        Restriction::sqe_op(opcode::Nop::CODE),
        Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()),
        Restriction::sqe_flags_allowed(Flags::ASYNC.bits()),
    ];
    permitted.extend(REGISTERED.map(Restriction::register_op));
    ring.submitter().register_restrictions(&mut permitted)?;
    ring.submitter().register_enable_rings()?;
    Ok(ring)
}

/// Whether the kernel does not know what was asked for.
fn is_unknown(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

/// Finds out what an old kernel lacks, before a ring is restricted: then it does not say.
fn check_support(ring: &IoUring) -> io::Result<()> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    if !probe.is_supported(opcode::Read::CODE) || !probe.is_supported(opcode::Write::CODE) {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    Ok(())
}

/// Finds out now what a sandbox that lets a ring be made may still refuse.
fn check_operations(ring: &mut IoUring) -> io::Result<()> {
    let nothing = opcode::Nop::new().build().flags(Flags::FIXED_FILE);
    // SAFETY: the operation names no memory.
    let pushed = unsafe { ring.submission().push(&nothing) };
    pushed.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    match ring.completion().next() {
        Some(entry) if entry.result() == 0 => Ok(()),
        Some(entry) => Err(io::Error::from_raw_os_error(-entry.result())),
        None => Err(io::Error::other("an operation did not end")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use chimaera_testing::skipped;
    use io_uring::squeue::Entry;
    use io_uring::types::{Fd, Fixed};

    use super::*;

    fn result(ring: &mut KernelRing, entry: &Entry) -> i32 {
        // SAFETY: the operations of this test are refused, or name memory of static life.
        unsafe { ring.submission().push(entry) }.expect("there is room");
        ring.submit_and_wait(1).expect("the kernel takes it");
        ring.completion().next().expect("a result").result()
    }

    #[test]
    fn a_ring_reads_and_writes_its_file_and_does_nothing_else() {
        let mut ring = match KernelRing::new(4) {
            Ok(ring) => ring,
            Err(error) => return skipped("restricted rings", &error.to_string()),
        };
        let file = File::open("/proc/self/exe").expect("it runs");
        let other = file.as_raw_fd();
        ring.submitter().register_files(&[other]).expect("a file");
        let byte: &'static mut [u8; 1] = Box::leak(Box::new([0]));
        let address = byte.as_mut_ptr();
        let read = opcode::Read::new(Fixed(0), address, 1).build();
        assert_eq!(result(&mut ring, &read), 1);
        let kept_out = [
            opcode::Read::new(Fd(other), address, 1).build(),
            opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build(),
            opcode::OpenAt::new(Fd(libc::AT_FDCWD), c"/".as_ptr()).build(),
            opcode::Close::new(Fd(-1)).build(),
        ];
        for entry in kept_out {
            assert_eq!(result(&mut ring, &entry), -libc::EACCES);
            let fixed = entry.flags(Flags::FIXED_FILE);
            let refused = result(&mut ring, &fixed);
            // The first of them is what is permitted, but for the place of its file.
            assert!(
                [-libc::EACCES, -libc::EBADF].contains(&refused),
                "{refused}"
            );
        }
        let refused = ring.submitter().register_probe(&mut Probe::new());
        let refused = refused.expect_err("only files and who is woken are registered");
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    }
}
