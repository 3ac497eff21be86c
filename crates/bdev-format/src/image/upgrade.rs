//! Making the pool on a file or device one of the newest version of the format.

use std::path::Path;

use chimaera_proto::{ModuleError, Status};

use super::disk::{FileDisk, pool_file, size_and_tail};
use super::inspect::{Inspection, examine, open_unused};
use super::random_bits;
use super::refusal::{ImageRefusal, Remedy, error};
use crate::PAGE_BYTES;
use crate::upgrade::{self as whole, MissingRoom, UpgradeError};

/// What became of a pool that was to be upgraded.
#[derive(Clone, Debug, PartialEq)]
pub enum Upgrade {
    /// It has the newest version now.
    Done(Box<Inspection>),
    /// It had that version before, and nothing was written.
    NotNeeded(Box<Inspection>),
    /// There is no room, and nothing was written.
    NoRoom(MissingRoom),
}

/// Makes the pool on a file or device that nobody uses one of the newest version of the format. No block moves. Blocks.
///
/// After a crash in the middle the pool is sound, of the old version or of the new one. An upgrade that was killed is
/// gone on with.
///
/// # Errors
/// [`Status::CorruptedMetadata`] if anything of the pool is damaged, and nothing was written; else as
/// [`check`](super::check) with a repair, also if the file system has no space for what is new.
pub fn upgrade(path: &Path) -> Result<Upgrade, ImageRefusal> {
    let file = pool_file(open_unused(path, true)?)?;
    let (size, tail) = size_and_tail(path, &file)?;
    let disk = FileDisk::new(file.clone());
    let place = (&disk, size, &tail[..]);
    let pages = size / PAGE_BYTES as u64;
    let finished = whole::finish(&disk, pages);
    if finished.map_err(|problem| refused(path, problem, place))? {
        return Ok(Upgrade::Done(Box::new(examine(path, &file, None)?)));
    }
    let plan = match whole::plan(&disk, pages) {
        Ok(Some(plan)) => plan,
        Ok(None) => {
            let inspection = examine(path, &file, None)?;
            return Ok(Upgrade::NotNeeded(Box::new(inspection)));
        }
        Err(UpgradeError::NoRoom(missing)) => return Ok(Upgrade::NoRoom(missing)),
        Err(problem) => return Err(refused(path, problem, place)),
    };
    for pages in plan.set_aside() {
        disk.set_aside(pages).map_err(|cause| {
            let action = format_args!("cannot set space aside in {}", path.display());
            ModuleError::system(action, &cause)
        })?;
    }
    plan.carry_out(&disk, random_bits()?)
        .map_err(|problem| refused(path, problem, place))?;
    Ok(Upgrade::Done(Box::new(examine(path, &file, None)?)))
}

/// The refusal of a pool that is not upgraded.
fn refused(path: &Path, problem: UpgradeError, place: (&FileDisk, u64, &[u8])) -> ImageRefusal {
    match problem {
        UpgradeError::Pool(problem) => ImageRefusal::of(path, problem, place),
        UpgradeError::Damaged { repairable, lost } => {
            let damage = [&lost[..], &repairable[..]].concat().join("; ");
            let text = format_args!("the pool is not upgraded, since it is damaged: {damage}");
            ImageRefusal {
                error: error(path, Status::CorruptedMetadata, text),
                remedy: match lost.is_empty() {
                    true => Remedy::Repair,
                    false => Remedy::PutBack,
                },
            }
        }
        UpgradeError::NoRoom(missing) => {
            error(path, Status::NoSpace, format_args!("{missing}")).into()
        }
    }
}
