//! Giving a pool another name, and a copy of a pool an identity of its own.
//!
//! Law: a crash leaves a pool that opens, with the old identity or the new one. For a moment its superblocks have
//! different UUIDs; they are known to be one pool's by what a copy keeps ([`Superblock::seed`] among it), and the
//! newest counts.
//!
//! [`Superblock::seed`]: crate::Superblock

use chimaera_proto::PoolId;

use crate::geometry::ReservedPages;
use crate::open_error::OpenError;
use crate::page::Disk;
use crate::recovery::OpenMode;
use crate::superblock::Superblock;

/// What makes a copy of a pool a pool of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnIdentity {
    pub(crate) uuid: [u8; 16],
    pub(crate) pool: PoolId,
}

/// Gives the pool another name, and the identity `own` if it is a copy. That is an opening for writing, with the random
/// bits `history`, which ends in good order. Blocks.
///
/// The pool has to be of version 2 for an identity of its own: in version 1 all checksums depend on the UUID.
///
/// # Errors
/// See [`OpenError`], also for a pool that has blocks where there can be none: nothing was written then.
pub(crate) fn rename<D: Disk>(
    disk: D,
    name: String,
    own: Option<OwnIdentity>,
    history: u64,
) -> Result<(), OpenError> {
    change_superblock(disk, history, |superblock| {
        superblock.identity.name = name;
        if let Some(OwnIdentity { uuid, pool }) = own {
            superblock.uuid = uuid;
            superblock.identity.pool = pool;
        }
    })
}

/// Changes what the superblock says of the pool that nobody uses: an opening for writing with these random bits, which
/// ends in good order.
pub(crate) fn change_superblock<D: Disk>(
    disk: D,
    history: u64,
    change: impl FnOnce(&mut Superblock),
) -> Result<(), OpenError> {
    let mode = OpenMode::ReadWrite { history };
    let reserved = ReservedPages::of(&crate::identify(&disk)?.geometry);
    let mut admit = |megabyte, map| reserved.leave_room(megabyte, &map);
    let mut metadata = crate::open_admitting(disk, mode, &mut admit, &mut |_, _| {})?.metadata;
    metadata.change_superblock(change)?;
    metadata.end()?;
    Ok(())
}
