//! Opening a pool: in memory always a new one, on a file the one that it holds, or a new one.

#![forbid(unsafe_code)]

use std::sync::Arc;

use chimaera_bdev_allocator::ledger::Ledger;
use chimaera_bdev_proto::UNIT_BYTES;
use chimaera_chimod::{CreateContext, HostResource, Level, ModuleError};

use super::allocator::{allocator_of, is_too_large, tables_bytes};
use super::counters::Counters;
use super::persistence::{self, PersistentPool};
use super::state::{BlockPool, PoolState};
use crate::backend::Backend;
use crate::backend::file::{FileDevice, MetadataDisk, NamedFile, Undo};
use crate::backend::ram::RamDevice;
use crate::declared::Declared;
use crate::params::{DeviceUsage, Parameters};
use crate::scrub::{self, FormerContents, Scrub};

/// Makes a pool in memory.
///
/// # Errors
/// [`OutOfMemory`](chimaera_proto::Status::OutOfMemory), and those of its allocator.
pub(crate) fn in_memory(
    context: &CreateContext<'_>,
    parameters: Parameters,
) -> Result<BlockPool, ModuleError> {
    let scrubs = scrub::of_new_pool(context, &parameters, FormerContents::Blank)?;
    let (host, total_size) = (context.host, parameters.total_size);
    // One that is too large is refused as that.
    if !is_too_large(total_size) {
        host.charge(HostResource::MemoryBytes, total_size)?;
        host.charge(HostResource::AddressBytes, tables_bytes(total_size))?;
    }
    let device = RamDevice::new(context, parameters.total_size)?;
    let allocator = allocator_of(parameters.total_size, context.worker_count, false)?;
    warn_if_too_large(context, parameters.total_size);
    Ok(BlockPool {
        backend: Backend::Ram(device),
        state: Arc::new(PoolState {
            allocator,
            counters: Counters::new(context.worker_count, 0),
            declared: Declared::new(
                context.permissions.owner,
                parameters.metrics.unwrap_or_default(),
            ),
            scrub: Scrub::new(scrubs, context.permissions.into(), context.host),
        }),
        usage: parameters.usage.or(DeviceUsage::default()),
        parameters,
        own_id: None,
        permissions: None,
        incarnation: None,
        _open_uuid: None,
        was_opened: false,
        has_unknown_blocks: false,
        reserved: Vec::new(),
        metadata_size: 0,
    })
}

/// Opens the pool that a file or device holds, or makes one there. NamedFile and ledger are for the pool's
/// keeper. Dropping the last value undoes what was changed.
///
/// # Errors
/// Whatever prevents it; the file is as it was before.
pub(crate) fn on_file(
    context: &CreateContext<'_>,
    parameters: Parameters,
) -> Result<(BlockPool, Arc<NamedFile>, Ledger<MetadataDisk>, Undo), ModuleError> {
    let (device, mut undo) = FileDevice::new(context, &parameters)?;
    // One that is too large is refused as that.
    let tables = match is_too_large(device.total_size()) {
        true => 0,
        false => tables_bytes(device.total_size()),
    };
    if let Err(error) = context.host.charge(HostResource::AddressBytes, tables) {
        return Err(undo.after(error));
    }
    let opened = persistence::open_or_format(context, &parameters, &device, &mut undo);
    let PersistentPool {
        allocator,
        ledger,
        block_count,
        was_opened,
        permissions,
        incarnation,
        has_unknown_blocks,
        open_uuid,
    } = match opened {
        Ok(opened) => opened,
        Err(error) => return Err(undo.after(error)),
    };
    let geometry = ledger.metadata().geometry();
    let reserved = geometry.reserved().collect();
    let metadata_size = geometry.reserved_pages() * UNIT_BYTES;
    let identity = &ledger.metadata().superblock().identity;
    // Metrics that were asked for are recorded by now, unless the pool is only read.
    let metrics = parameters.metrics.unwrap_or(identity.metrics);
    let declared = Declared::new(permissions.owner, metrics);
    let scrub = Scrub::new(identity.scrubs, permissions.into(), context.host);
    let own_id = identity.pool;
    let named_file = Arc::clone(device.named_file());
    let pool = BlockPool {
        usage: device.usage(),
        backend: Backend::File(Box::new(device)),
        parameters: Parameters {
            total_size: allocator.total_bytes(),
            overwrite: false,
            ..parameters
        },
        state: Arc::new(PoolState {
            allocator,
            counters: Counters::new(context.worker_count, block_count),
            declared,
            scrub,
        }),
        own_id: Some(own_id),
        permissions: Some(permissions),
        incarnation,
        _open_uuid: Some(open_uuid),
        was_opened,
        has_unknown_blocks,
        reserved,
        metadata_size,
    };
    Ok((pool, named_file, ledger, undo))
}

/// Warns of a pool that is larger than the memory there is. Memory is taken as it is written, so such a pool
/// can be made, and used as long as little of it is written.
fn warn_if_too_large(context: &CreateContext<'_>, total_size: u64) {
    let Some(available) =
        chimaera_thread::available_bytes().filter(|&available| available < total_size)
    else {
        return;
    };
    context.host.log(
        Level::Warning,
        format_args!(
            "the pool has {total_size} bytes, more than the {available} bytes of memory that the runtime can \
             have: when so many are written, the kernel kills the runtime, and every pool in memory is lost; give \
             a smaller size"
        ),
    );
}
