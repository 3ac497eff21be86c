//! Why a pool is not inspected, checked or renamed, and what helps.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use chimaera_bdev_proto::UNIT_BYTES;
use chimaera_proto::{ModuleError, Status};

use super::disk::FileDisk;
use crate::open_error::OpenError;
use crate::superblock::overwritten_pages;

/// Why nothing was found out of a pool, or done with it. Nothing was written, unless it was the device that failed.
#[derive(Clone, Debug)]
pub struct ImageRefusal {
    /// What happened, to what.
    pub error: ModuleError,
    /// What helps. Its words are for whoever shows the error, who knows how commands are called.
    pub remedy: Remedy,
}

/// What helps against a [`ImageRefusal`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing but what the error says itself.
    None,
    /// A repair.
    Repair,
    /// A repair of one of the pools with these UUIDs, which has to be named.
    RepairOneOf(Vec<[u8; 16]>),
    /// If what was written over the pool's beginning is not wanted, and these bytes are zeroed, a repair.
    ClearBeginning(Range<u64>),
    /// If it is known which of these places is the pool's far place, and the bytes of the others are zeroed, a repair.
    ClearFarPlaces(Vec<Range<u64>>),
    /// A copy of what was there: nothing repairs it.
    PutBack,
    /// An upgrade of the pool to the newest version of the format.
    Upgrade,
}

impl fmt::Display for ImageRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl From<ModuleError> for ImageRefusal {
    fn from(error: ModuleError) -> Self {
        Self {
            error,
            remedy: Remedy::None,
        }
    }
}

impl From<ImageRefusal> for ModuleError {
    fn from(refusal: ImageRefusal) -> Self {
        refusal.error
    }
}

impl ImageRefusal {
    /// The refusal of a pool that cannot be opened. The disk, its size and its last bytes show what is there instead.
    pub(super) fn of(
        path: &Path,
        problem: OpenError,
        (disk, size, tail): (&FileDisk, u64, &[u8]),
    ) -> Self {
        let text = problem.to_string();
        let damaged = |text| error(path, Status::CorruptedMetadata, text);
        let (error, remedy) = match problem {
            OpenError::Device(cause) => (disk.explain(path, &cause), Remedy::None),
            OpenError::NoPool => {
                let found = match disk.contents(size, tail, &mut |_, _| {}) {
                    Ok(found) => format!("it holds {found}, and no pool"),
                    Err(_) => "it holds no pool".to_owned(),
                };
                let error = error(
                    path,
                    Status::NotFound,
                    format_args!(
                        "{found}: see whether this is the path of the pool's file or device"
                    ),
                );
                (error, Remedy::None)
            }
            OpenError::Overwritten(contents) => {
                let error = error(
                    path,
                    Status::NotBlank,
                    format_args!("it held a pool, over which {contents} was written"),
                );
                let pages = overwritten_pages(disk);
                let bytes = pages.start * UNIT_BYTES..pages.end * UNIT_BYTES;
                (error, Remedy::ClearBeginning(bytes))
            }
            OpenError::OnlyFarCopies(copies) => {
                let uuids = copies.uuids();
                let remedy = match uuids.len() {
                    1 => Remedy::Repair,
                    _ => Remedy::RepairOneOf(uuids),
                };
                let error = damaged(format_args!("corrupted block metadata: {text}"));
                (error, remedy)
            }
            OpenError::ConflictingCopies(copies) => {
                let error = damaged(format_args!("corrupted block metadata: {text}"));
                (error, Remedy::ClearFarPlaces(copies.places()))
            }
            OpenError::TwoPools(pools) => {
                let error = damaged(format_args!("{text}"));
                (error, Remedy::RepairOneOf(pools.uuids()))
            }
            OpenError::AnotherUuid(_) => {
                let error = error(path, Status::ParameterMismatch, format_args!("{text}"));
                (error, Remedy::None)
            }
            OpenError::Marked(_) => (damaged(format_args!("{text}")), Remedy::Repair),
            OpenError::NotAdmitted(_) => {
                let error = damaged(format_args!("corrupted block metadata: {text}"));
                (error, Remedy::PutBack)
            }
            OpenError::Damaged(text) => {
                let error = damaged(format_args!("corrupted block metadata: {text}"));
                (error, Remedy::PutBack)
            }
            OpenError::Unsupported(text) | OpenError::OnlyReadable(text) => {
                let error = error(path, Status::Unsupported, format_args!("{text}"));
                (error, Remedy::None)
            }
        };
        Self { error, remedy }
    }

    /// The refusal to give a pool of version 1 an identity of its own.
    pub(super) fn of_version_1(path: &Path) -> Self {
        Self {
            error: error(
                path,
                Status::Unsupported,
                format_args!(
                    "the pool has version 1 of the format, in which all checksums depend on the UUID, so that it \
                     cannot be given another one"
                ),
            ),
            remedy: Remedy::Upgrade,
        }
    }
}

pub(super) fn in_use_error(path: &Path) -> ModuleError {
    error(
        path,
        Status::Busy,
        format_args!("it is in use: destroy the pool in its daemon, or stop the daemon, first"),
    )
}

pub(super) fn error(path: &Path, status: Status, text: fmt::Arguments<'_>) -> ModuleError {
    ModuleError::new(status, format!("{}: {text}", path.display()))
}
