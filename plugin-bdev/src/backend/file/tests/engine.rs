//! What the tests of every engine share.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use chimaera_bdev_format::image::{PoolFile, pool_file};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::super::engine::{DeviceCommand, DeviceResult, Engine, Opcode};

pub(in super::super) fn file_and_wake() -> (PoolFile, Arc<EventFd>) {
    let file = tempfile::tempfile().expect("a temporary file");
    let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).expect("an eventfd");
    (pool_file(file).expect("memory"), Arc::new(wake))
}

/// Waits for the wake-up as a worker does, and takes the results until there are `count`.
pub(in super::super) fn results_of(
    engine: &mut impl Engine,
    wake: &EventFd,
    count: usize,
) -> Vec<DeviceResult> {
    let mut results = Vec::new();
    loop {
        engine.reap(&mut results);
        if results.len() >= count {
            return results;
        }
        let mut files = [PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut files, PollTimeout::from(20_000u16)).expect("polled");
        assert_eq!(
            ready,
            1,
            "{} of {count} results, and no more",
            results.len()
        );
        wake.read().expect("it was readable");
    }
}

/// Writes and reads more often than any ring has entries.
pub(in super::super) fn transfer_often(engine: &mut impl Engine, file: &File, wake: &EventFd) {
    let mut memory = [0u8; 64];
    let address = memory.as_mut_ptr();
    for number in 0..1000u64 {
        let command = DeviceCommand {
            tag: number,
            opcode: match number % 2 {
                0 => Opcode::Write,
                _ => Opcode::Read,
            },
            address,
            len_bytes: 64,
            offset_in_device: number / 2 * 64,
        };
        // SAFETY: the array outlives its results, which are waited for below, and is only
        // touched through `address`.
        let count = unsafe {
            address.write(number as u8);
            engine.submit(&[command])
        };
        assert_eq!(count.expect("submitted"), 1);
        let expected = DeviceResult {
            tag: number,
            result: 64,
        };
        assert_eq!(results_of(engine, wake, 1), [expected]);
        // SAFETY: nothing is in flight.
        let first = unsafe { address.read() };
        assert_eq!(first, (number / 2 * 2) as u8, "what was written is read");
    }
    let mut last = [0];
    file.read_exact_at(&mut last, 499 * 64).expect("read");
    assert_eq!(last, [998u64 as u8]);
}
