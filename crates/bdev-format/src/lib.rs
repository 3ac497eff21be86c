//! What stands on the device of a bdev pool: which blocks are allocated, and whose they are.
//!
//! `docs/ON_DISK_FORMAT.md` has the format, what is assumed of the medium, and why each crash is
//! harmless. In short: a *table* has a record per megabyte, twice; a *journal* has the changes since;
//! a *superblock*, twice, says how far the table goes. A commit appends to the journal and flushes; a
//! checkpoint brings the journal into the table, step by step, while commits go on.
//!
//! # Laws
//! - What was committed is found again, whatever is lost, torn or reordered that was not flushed.
//! - Nothing that was read is believed without its checksum, and what has one is still checked for
//!   what cannot be.
//! - After an error of the device nothing more is written: what it has done is not known. Opening
//!   again finds out.
//! - Outside of [`image`] there are no files, no threads, no clock and no randomness, so that tests can
//!   run all of it on a simulated device, with a crash at each step.
//!
//! # Parts
//! - [`block_map`]: where blocks lie inside a megabyte.
//! - `limits`, `page`: the numbers of the format; pages, checksums, and the [`Disk`] on which all lies.
//! - `geometry`: where everything lies.
//! - `superblock`, `table`, `journal`, `tags`: the structures.
//! - `metadata`: a pool that is open. `overlay`: what stands in its journal only. `checkpoint`: bringing
//!   that into the table.
//! - `scan`: reading the journal. `recovery`: opening. `repair`: what opening writes.
//! - `check`: all of it, for people. [`signature`]: what else a device may hold.
//! - [`image`]: files and devices with pools on them.

#![forbid(unsafe_code)]

pub mod block_map;
mod check;
mod checkpoint;
mod geometry;
pub mod image;
mod journal;
mod limits;
mod metadata;
mod overlay;
mod page;
mod recovery;
mod repair;
mod scan;
pub mod signature;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
mod superblock;
mod table;
mod tags;
mod weakness;

pub use geometry::Geometry;
pub use limits::{FORMAT_VERSION, PAGE_BYTES};
pub use metadata::Metadata;
pub use page::{Disk, Page};
pub use recovery::{OpenError, OpenMode, OpenedPool, identify, open};
pub use superblock::{FormatFeatures, Identity, PoolOwner, Superblock};
#[cfg(any(test, feature = "simulation"))]
pub use weakness::with_weakness;
pub use weakness::{CrashWeakness, weakened};
