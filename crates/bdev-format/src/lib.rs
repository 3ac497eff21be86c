//! The metadata of a bdev pool on its device: which blocks are allocated, and whose they are.
//!
//! `docs/ON_DISK_FORMAT.md` has the format, what is assumed of the medium, and why each crash is
//! harmless. In short: a *table* has an entry per megabyte; a *journal* has the updates since the table was
//! written; a *superblock* says which of them the table already has. All of them have copies, which lie far from each
//! other. A commit appends to the journal and flushes; a checkpoint brings the journal into
//! the table, step by step, while commits go on.
//!
//! # Laws
//! - What was committed is found again, whatever is lost, torn or reordered of the writes that were not flushed.
//! - Whatever is read counts only with a right checksum, and is checked for impossible values even then.
//! - After an error of the device nothing more is written, since nobody knows what the device has done. Opening
//!   the pool again finds out.
//! - Outside of [`image`] there are no files, no threads, no clock and no randomness, so that tests can run all of
//!   it on a simulated device, with a crash at each step. `clippy.toml` of this crate holds that.
//!
//! # Parts
//! - [`block_map`]: where blocks lie inside a megabyte.
//! - `limits`, `page`: the constants of the format; pages, checksums, and the [`Disk`] that has them.
//! - `version`: the versions of the format. `geometry`: where everything lies on the device.
//! - `superblock`, `table`, `journal`, `tags`, `mark`: the structures.
//! - `creation`: making a pool. `metadata`: a pool that is open.
//! - `overlay`: updates that only the journal has. `checkpoint`: bringing them into the table.
//! - `scan`: reading the journal. `recovery`: opening. `repair`: what opening writes.
//! - `rename`: another name, or an identity of its own. `check`: checking all of a pool, copies included. `upgrade`:
//!   making it one of the newest version. [`contents`]: what else a device may hold.
//! - [`image`]: files and devices with pools on them.
//! - `weakness`, `simulation`: the proof of crash safety, for tests.

#![forbid(unsafe_code)]

pub mod block_map;
mod check;
mod checkpoint;
pub mod contents;
mod creation;
mod geometry;
pub mod image;
mod journal;
mod limits;
mod mark;
mod metadata;
mod open_error;
mod overlay;
mod page;
mod recovery;
mod rename;
mod repair;
mod scan;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
mod superblock;
mod table;
mod tags;
mod upgrade;
mod version;
mod weakness;

pub use geometry::Geometry;
pub use limits::PAGE_BYTES;
pub use mark::FailureMark;
pub use metadata::Metadata;
pub use open_error::OpenError;
pub use page::{Disk, Page};
pub use recovery::{OpenMode, OpenedPool, identify, identify_to_write, open, open_admitting};
pub use superblock::{
    Birth, ConflictingCopies, FarCopies, FormatFeatures, History, Identity, PoolOwner, Superblock,
    SuperblockCopy, TwoPools,
};
pub use upgrade::MissingRoom;
pub use version::FormatVersion;
#[cfg(any(test, feature = "simulation"))]
pub use weakness::with_weakness;
pub use weakness::{CrashWeakness, weakened};
