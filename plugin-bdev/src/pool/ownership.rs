//! Whose a pool on a file or device is: what its superblock says, where that can be believed.
//!
//! Whoever may write to a file may write any owner into it. So what the superblock says is believed only if nobody
//! could have written it who is not trusted with the pool anyway: the file belongs to root, to the user of this process
//! or to the owner that the superblock names, and nobody else may write to it. Access control lists are not looked at,
//! but where there is one, the group's bits of the mode are the most that it gives anybody.
//!
//! Owner and mode of the file say who may open it now. A user who passes it open for writing may have opened it when
//! they said otherwise, and have written whatever he liked: of such a file only that user himself is believed.

#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt;

use chimaera_bdev_format::PoolOwner;
use chimaera_chimod::{Level, ModuleError};
use chimaera_proto::Permissions;
use chimaera_proto::rights::{MODE_BITS, OVERFLOW_ID};
use nix::unistd::geteuid;

use super::opening_context::OpeningContext;

/// Bits of a file's mode that let others than its owner write to it.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The permissions that a pool has which is on the device already.
///
/// # Errors
/// The device's.
pub(super) fn settle(
    opening: &OpeningContext<'_>,
    recorded: PoolOwner,
) -> Result<Permissions, ModuleError> {
    let context = opening.context;
    let is_told = opening.parameters.trust_owner;
    let file = opening.device.named_file().metadata();
    let file = file.map_err(|error| opening.device_failed("look at", &error))?;
    let (file_owner, file_mode) = (file.uid(), file.mode());
    let writer = opening.device.passer_can_write();
    let writer = writer.then_some(context.creator.uid);
    let is_believed = || {
        writer.is_none_or(|writer| writer == recorded.user)
            && is_believed(recorded.user, file_owner, file_mode, geteuid().as_raw())
    };
    if recorded.user != OVERFLOW_ID && (is_told || is_believed()) {
        return Ok(Permissions {
            owner: recorded.user,
            group: recorded.group,
            mode: recorded.mode as u16 & MODE_BITS,
        });
    }
    let asked = context.permissions;
    let permissions = Permissions::of_owner(asked.owner, asked.group);
    let is_other = recorded.user != permissions.owner;
    if is_other || recorded.mode != permissions.mode.into() {
        let cause = match writer {
            Some(writer) => format!("user {writer} has passed its file open for writing"),
            None => format!(
                "its file belongs to user {file_owner} and has the mode {:04o}",
                file_mode & 0o7777
            ),
        };
        let text = format!(
            "it records owner {}, group {} and mode {:04o}, which is not believed, as {cause}: whoever may write to it \
             may have written that. So the pool is user {}'s, with the mode {:04o}; `chimaera pool chown` and `chmod` \
             change it, and --trust-owner believes it",
            recorded.user, recorded.group, recorded.mode, permissions.owner, permissions.mode,
        );
        opening.log(Level::Warning, &text);
    }
    Ok(permissions)
}

/// Whether nobody who may open the file now can have written this owner into it who is not trusted with the pool.
fn is_believed(recorded: u32, file_owner: u32, file_mode: u32, own: u32) -> bool {
    file_mode & WRITABLE_BY_OTHERS == 0 && [0, own, recorded].contains(&file_owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_anybody_else_may_have_written_is_not_believed() {
        for (recorded, file_owner, file_mode, expected) in [
            (1001, 0, 0o600, true),
            (1001, 1001, 0o644, true),
            (1001, 900, 0o600, true),
            (0, 0, 0o600, true),
            // An image that user 1001 made.
            (1002, 1001, 0o600, false),
            (0, 1001, 0o600, false),
            (1001, 1001, 0o660, false),
            (1001, 0, 0o602, false),
        ] {
            let found = is_believed(recorded, file_owner, file_mode, 900);
            assert_eq!(found, expected, "{recorded} {file_owner} {file_mode:o}");
        }
    }
}
