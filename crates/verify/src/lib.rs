//! Proves that a block device pool keeps across crashes what it promises.
//!
//! [`run()`] keeps a workload going against a pool and notes in a journal, which lies outside of the pool, what has
//! been flushed. [`check()`] compares a pool with what its journal promises. Between them the daemon may be killed or
//! the machine lose its power, as often as one likes; a further run continues the journal.
//!
//! The journal is a text file of the workload's, and has nothing to do with the journal on a pool's device.
//!
//! Every call blocks until it is done: requests to the pool wait for its answers, and journals for their device.
//!
//! ```no_run
//! use std::num::NonZeroU8;
//! use std::path::Path;
//! use std::time::{Duration, Instant};
//!
//! use chimaera_bdev_client::{Client, PoolInfo};
//! use chimaera_verify::{JournalId, PoolIdentity, Workload, WorkloadJournal, check, read_journal, run};
//!
//! fn work(pool: &Client, info: &PoolInfo, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
//!     let mut journal = WorkloadJournal::open(path, JournalId::random()?)?;
//!     journal.keep_for(PoolIdentity { id: info.id, name: info.name.clone() })?;
//!     let workload = Workload { threads: NonZeroU8::MIN, seed: 1, space_bytes: 64 << 20 };
//!     let end = Instant::now() + Duration::from_secs(10);
//!     run(pool, journal, workload, |_| Instant::now() >= end).map_err(|failure| failure.error)?;
//!     Ok(())
//! }
//!
//! // After a crash, when the pool is open again:
//! fn prove(pool: &Client, info: &PoolInfo, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
//!     let model = read_journal(path, &PoolIdentity { id: info.id, name: info.name.clone() })?;
//!     let findings = check(&model, pool)?;
//!     assert!(findings.violations.is_empty(), "{:#?}", findings.violations);
//!     Ok(())
//! }
//! ```
//!
//! - `ids` and `block_contents`: what a workload writes into blocks, by which every sector says what it is.
//! - `line` and `journal`: what a journal notes, and how that becomes durable.
//! - `model`: what a journal promises of a pool.
//! - `check`: the comparison of a pool with that.
//! - `workload`, `resume`, `run` and `workload_thread`: how a workload continues a journal, and what its threads do.

#![forbid(unsafe_code)]

mod block_contents;
mod check;
mod error;
mod ids;
mod journal;
mod line;
mod model;
mod pool;
mod resume;
mod run;
#[cfg(test)]
mod simulated_pool;
mod split_mix;
#[cfg(test)]
mod tests;
mod workload;
mod workload_thread;

pub use check::{Findings, check};
pub use error::VerifyError;
pub use ids::JournalId;
pub use journal::{WorkloadJournal, read_journal};
pub use model::PoolModel;
pub use pool::{PoolIdentity, VerifiedPool};
pub use run::{RunFailure, RunSummary, run};
pub use workload::Workload;
pub use workload_thread::RunCounts;
