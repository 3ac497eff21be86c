//! A block device to put a pool on.

use chimaera_testing::{LoopDevice, skipped};

/// A loop device of this size, or `None`, with a word why, where there can be none.
pub(crate) fn loop_device(len_bytes: u64, options: &[&str]) -> Option<LoopDevice> {
    match LoopDevice::attach_with(len_bytes, options) {
        Ok(device) => Some(device),
        Err(reason) => {
            skipped("a pool on a loop device", &reason);
            None
        }
    }
}
