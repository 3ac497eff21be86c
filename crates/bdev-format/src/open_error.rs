//! Why a pool cannot be opened.

use std::fmt;
use std::io;

use crate::contents::DeviceContents;
use crate::mark::FailureMark;
use crate::superblock::{ConflictingCopies, FarCopies, NotPicked, TwoPools, hyphenated};

/// Why a pool cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// There is no pool: the device may be blank, or hold something else.
    NoPool,
    /// There was a pool, and something else was written over its beginning.
    Overwritten(DeviceContents),
    /// The superblocks at the beginning are gone, and there are sound copies of such elsewhere.
    OnlyFarCopies(FarCopies),
    /// The superblocks at the beginning are gone, and nobody can tell which of the copies elsewhere is the pool's.
    ConflictingCopies(ConflictingCopies),
    /// There are superblocks of two pools, one of which was written over the other. The pool at the beginning can be
    /// opened for reading only.
    TwoPools(Box<TwoPools>),
    /// A repair was asked for of another pool than there is, and the one at the beginning has this UUID.
    AnotherUuid([u8; 16]),
    /// Its device failed when it was open last, and nobody has looked since.
    Marked(FailureMark),
    /// The device failed.
    Device(io::Error),
    /// The metadata is damaged, in this way.
    Damaged(String),
    /// This megabyte has blocks where the caller says that there can be none.
    NotAdmitted(u32),
    /// This program cannot use this pool, for this reason.
    Unsupported(String),
    /// The pool may only be read, for this reason.
    OnlyReadable(String),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Self::Damaged("it ends within the pool's metadata: it was cut off".to_owned())
            }
            _ => Self::Device(error),
        }
    }
}

impl From<NotPicked> for OpenError {
    fn from(refusal: NotPicked) -> Self {
        match refusal {
            NotPicked::Unclear(copies) => Self::OnlyFarCopies(copies),
            NotPicked::Conflict(copies) => Self::ConflictingCopies(copies),
            NotPicked::Unsupported(text) => Self::Unsupported(text),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPool => f.write_str("there is no pool"),
            Self::Overwritten(contents) => write!(f, "{contents} was written over it"),
            Self::OnlyFarCopies(copies) => write!(
                f,
                "its beginning was overwritten, and far from it there is still a copy of the superblock of {copies}"
            ),
            Self::ConflictingCopies(copies) => {
                write!(f, "its beginning was overwritten, and {copies}")
            }
            Self::TwoPools(pools) => pools.fmt(f),
            Self::AnotherUuid(uuid) => write!(
                f,
                "at its beginning is the pool with UUID {}, and not the one that was asked for: a UUID chooses among \
                 pools only where the beginning is gone, or the far place has another one's superblock; nothing was \
                 written",
                hyphenated(uuid)
            ),
            Self::Marked(mark) => {
                write!(
                    f,
                    "its device failed when it was open last ({mark}), and nobody has looked at it since"
                )
            }
            Self::Device(error) => error.fmt(f),
            Self::NotAdmitted(megabyte) => {
                write!(f, "megabyte {megabyte} has blocks where there can be none")
            }
            Self::Damaged(text) | Self::Unsupported(text) | Self::OnlyReadable(text) => {
                f.write_str(text)
            }
        }
    }
}
