//! A pool's allocator: how it is made, and what completes when blocks are free.

#![forbid(unsafe_code)]

use std::io;

use chimaera_bdev_allocator::{Allocator, FreeCompletion, Threads};
use chimaera_bdev_proto::MEGABYTE;
use chimaera_chimod::{ModuleError, Request};
use chimaera_proto::Status;

/// A task that completes when its blocks are free, perhaps after transfers on them have ended.
#[derive(Debug)]
pub(crate) struct PendingFree {
    request: Request,
}

impl PendingFree {
    pub(crate) fn new(request: Request) -> Self {
        Self { request }
    }

    /// The task, to fail it: its free was refused.
    pub(crate) fn into_request(self) -> Request {
        self.request
    }
}

impl FreeCompletion for PendingFree {
    fn freed(self) {
        self.request.complete(&[]);
    }
}

/// Makes the allocator of a pool of this size, for so many workers.
///
/// # Errors
/// [`Status::InvalidArgument`] for a pool that is larger than the allocator can manage,
/// [`Status::OutOfMemory`] if there is no room for its tables.
pub(crate) fn allocator_of(
    total_size: u64,
    worker_count: usize,
    is_persistent: bool,
) -> Result<Allocator<PendingFree>, ModuleError> {
    let allocator = match (is_persistent, worker_count) {
        // The keeper, which commits, is one more thread.
        (true, _) => Allocator::persistent(total_size, Threads::Many),
        (false, 1) => Allocator::new(total_size, Threads::One),
        (false, _) => Allocator::new(total_size, Threads::Many),
    };
    allocator.map_err(|error| {
        if error.kind() == io::ErrorKind::InvalidInput {
            return too_large(total_size);
        }
        let action = format_args!("no room for the tables of a pool of {total_size} bytes");
        let mut refusal = ModuleError::system(action, &error);
        refusal.failure.status = Status::OutOfMemory;
        refusal.message += "; give a smaller size, or raise the limit on the runtime's address space (`ulimit -v`)";
        refusal
    })
}

/// Bytes of address space that the allocator of a pool of this size takes at most: 256 for each megabyte.
pub(super) const fn tables_bytes(total_size: u64) -> u64 {
    total_size.div_ceil(MEGABYTE) * 256
}

/// Whether no pool can have so many bytes.
pub(super) const fn is_too_large(total_size: u64) -> bool {
    total_size > Allocator::<PendingFree>::MAX_TOTAL_BYTES
}

/// The error for a size that no pool can have.
pub(super) fn too_large(total_size: u64) -> ModuleError {
    let most = Allocator::<PendingFree>::MAX_TOTAL_BYTES;
    ModuleError::new(
        Status::InvalidArgument,
        format!("a pool of {total_size} bytes cannot be managed: give at most {most}"),
    )
}
