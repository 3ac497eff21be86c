//! What a pool is while it is open.

#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use chimaera_bdev_allocator::Allocator;
use chimaera_bdev_format::block_map::UNITS;
use chimaera_bdev_proto::MegabyteState;
use chimaera_chimod::{Incarnation, ModuleError, Request, Worker};
use chimaera_proto::{Permissions, PoolId, Status};

use super::allocator::PendingFree;
use super::counters::Counters;
use super::open_uuids::OpenUuid;
use crate::backend::Backend;
use crate::declared::Declared;
use crate::params::{DeviceUsage, Parameters};
use crate::scrub::Scrub;

/// A pool of blocks on memory, a file or a block device.
pub(crate) struct BlockPool {
    /// Keeps copies of a pool on a device from being opened. Before the backend, and so dropped before that unlocks
    /// the file.
    pub(crate) _open_uuid: Option<OpenUuid>,
    // Before the allocator, and so dropped before it: what is under way has pinned blocks.
    pub(crate) backend: Backend,
    pub(crate) state: Arc<PoolState>,
    /// With the pool's real size.
    pub(crate) parameters: Parameters,
    /// How the device is really used.
    pub(crate) usage: DeviceUsage,
    /// The id that the pool has on its device. One in memory has none.
    pub(crate) own_id: Option<PoolId>,
    /// Whose it was when it was opened. One in memory is whose the host says.
    pub(crate) permissions: Option<Permissions>,
    /// Which opening of the pool this is, where that is counted.
    pub(crate) incarnation: Option<Incarnation>,
    /// Whether the device held the pool already.
    pub(crate) was_opened: bool,
    /// Whether metadata is lost that may have had blocks: then the pool is only read.
    pub(crate) has_unknown_blocks: bool,
    /// Units that metadata takes, and their bytes together.
    pub(crate) reserved: Vec<Range<u64>>,
    pub(crate) metadata_size: u64,
}

/// What a pool's workers and its keeper share: which blocks there are, what was done, what is declared, and whether
/// the pool scrubs.
pub(crate) struct PoolState {
    pub(crate) allocator: Allocator<PendingFree>,
    pub(crate) counters: Counters,
    pub(crate) declared: Declared,
    pub(crate) scrub: Scrub,
}

impl BlockPool {
    /// Whether the pool outlives its container, on a device.
    pub(crate) fn is_persistent(&self) -> bool {
        self.own_id.is_some()
    }

    /// Checks that a request with the parameters `asked` means this pool, as it is open now. Blocks as
    /// looking at a file does.
    ///
    /// # Errors
    /// [`Status::ParameterMismatch`] with a text that says what differs.
    pub(crate) fn check_same(&self, asked: &Parameters) -> Result<(), ModuleError> {
        let mut asked = *asked;
        let whole = match &self.backend {
            Backend::Ram(_) => self.parameters.total_size,
            Backend::File(device) => {
                device.named_file().check()?;
                // A pool may have less than its file, whose rest has no room for metadata, and less than was asked for
                // when it was opened, to which it could not grow.
                let own_size =
                    |size| match [device.total_size(), device.size_asked()].contains(&size) {
                        true => self.parameters.total_size,
                        false => size,
                    };
                asked.total_size = own_size(asked.total_size);
                own_size(device.whole_size_when_opened()?)
            }
        };
        self.parameters.check_same(&self.usage, &asked, whole)
    }

    /// Completes a task as failed, and counts that.
    pub(crate) fn refuse(&self, worker: &Worker<'_>, request: Request, status: Status) {
        self.state.counters.of(worker.index()).errors.add(1);
        request.fail(status);
    }

    /// How much of a megabyte is used.
    pub(crate) fn megabyte_state(&self, index: usize) -> MegabyteState {
        self.state.allocator.state(index, self.has_metadata(index))
    }

    fn has_metadata(&self, megabyte: usize) -> bool {
        let first = megabyte as u64 * UNITS;
        let mut reserved = self.reserved.iter();
        reserved.any(|units| units.start < first + UNITS && units.end > first)
    }
}
