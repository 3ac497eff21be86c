//! Which pools on files and devices are open, by their UUIDs: of a pool and its copies, one at a time.
//!
//! A copy of a file, a snapshot of a device and a second path to one disk hold the same pool, as far as anybody can
//! tell: checksums and records are tied to the UUID. Open side by side, the two would go different ways under one
//! identity, and whoever looks for blocks could get those of either. File systems refuse that, too (XFS: "duplicate
//! UUID"). It holds also for pools that are only read, since a client that finds its blocks in the wrong copy is wrong
//! about them either way.
//!
//! The table is a static of this library. So it has the pools of all runtimes in this process that this library
//! serves. It does not have those of another process, nor those of a second copy of this library in the same process,
//! such as one that is loaded beside the one that is linked in.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use chimaera_chimod::ModuleError;
use chimaera_fork::PerProcess;
use chimaera_proto::{PoolId, Status, shell};
use parking_lot::Mutex;
use uuid::Uuid;

use super::opening_context::OpeningContext;

/// A forked child has none of its parent's pools.
static OPEN: PerProcess<Mutex<BTreeMap<[u8; 16], OpenPool>>> = PerProcess::new(Mutex::default);

/// A pool that is open, or about to be.
#[derive(Clone, Debug)]
struct OpenPool {
    name: String,
    id: PoolId,
}

/// The place of an open pool in the table. To be dropped when nothing is written to the pool any more, and before its
/// file is unlocked: whoever opens that next finds the place free.
#[derive(Debug)]
pub(crate) struct OpenUuid([u8; 16]);

impl OpenUuid {
    /// Enters the pool with this id that is about to be opened or made. Waits for no pool.
    ///
    /// # Errors
    /// [`Status::ParameterMismatch`] if a pool of this UUID is open, or about to be.
    pub(super) fn enter(
        opening: &OpeningContext<'_>,
        uuid: [u8; 16],
        id: PoolId,
    ) -> Result<Self, ModuleError> {
        let mut open = OPEN.get().lock();
        let Entry::Occupied(other) = open.entry(uuid) else {
            let name = opening.context.name.to_owned();
            open.insert(uuid, OpenPool { name, id });
            return Ok(Self(uuid));
        };
        let other = other.get().clone();
        drop(open);
        let (uuid, copy) = (Uuid::from_bytes(uuid), shell::word(opening.context.name));
        let advice = match opening.device.cannot_be_written() {
            false => format!(
                "give it a UUID and an id of its own by `chimaera pool rename --copy {copy}`"
            ),
            true => "open it in another daemon, or copy it to another place, since here it can only be read, and give \
                     that copy a UUID and an id of its own by `chimaera pool rename --copy`"
                .to_owned(),
        };
        Err(opening.error(
            Status::ParameterMismatch,
            format_args!(
                "duplicate UUID: the pool there, with the id {id}, has the UUID {uuid} as the pool {} with the id {} \
                 has, which is open: one is a copy of the other, or both are paths to one device; destroy that one \
                 first, or, if this one is the copy, {advice}",
                other.name, other.id
            ),
        ))
    }
}

impl Drop for OpenUuid {
    fn drop(&mut self) {
        OPEN.get().lock().remove(&self.0);
    }
}
