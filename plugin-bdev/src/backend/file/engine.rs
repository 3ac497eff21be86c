//! The seam between a worker's queue and whatever carries its operations out: the kernel's AIO or io_uring,
//! or in tests a script. Everything that a queue asks of a device passes here. Flushes do not: other threads
//! make them.

use std::io;

/// What a command does on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Read,
    Write,
}

/// A read or write that an engine is given to carry out.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceCommand {
    /// Comes back with the result.
    pub(super) tag: u64,
    pub(super) opcode: Opcode,
    /// First byte of memory.
    pub(super) address: *mut u8,
    pub(super) len_bytes: u32,
    /// Where on the device, in bytes.
    pub(super) offset_in_device: u64,
}

// SAFETY: the address is a number until an engine uses it, under the contract of
// `Engine::submit`, which holds on any thread.
unsafe impl Send for DeviceCommand {}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceResult {
    pub(super) tag: u64,
    /// Bytes transferred, or a negative errno.
    pub(super) result: i64,
}

/// What carries out the operations of one worker.
pub(super) trait Engine {
    /// Starts operations, in order, and returns how many were started: at least one if `batch`
    /// is not empty. The rest was not touched.
    ///
    /// # Errors
    /// `WouldBlock` if none can be started now; any other error is that of the first operation.
    ///
    /// # Safety
    /// The memory of every operation that is started must stay valid, and for reads must not be
    /// referenced, until its result was reaped or the engine was dropped.
    unsafe fn submit(&mut self, batch: &[DeviceCommand]) -> io::Result<usize>;

    /// Appends the results of operations that ended since the last call.
    fn reap(&mut self, results: &mut Vec<DeviceResult>);

    /// How many of the operations that were started the kernel has not taken yet. Each [`Self::reap`] offers
    /// them again.
    fn kept_back(&self) -> usize {
        0
    }

    /// Gives up the operations that are kept back, if nothing else is in flight, and appends their tags: they
    /// will never be done, and their memory is not touched any more.
    fn give_up(&mut self, tags: &mut Vec<u64>) {
        let _ = tags;
    }
}
