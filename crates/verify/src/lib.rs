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
//! - `ids` and `block_contents`: what a workload writes into blocks, by which every sector says what it is.
//! - `line` and `journal`: what a journal notes, and how that becomes durable.
//! - `model`: what a journal promises of a pool.
//! - `check`: the comparison of a pool with that.
//! - `resume`, `run` and `workload_thread`: how a workload continues a journal, and what its threads do.

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
mod workload_thread;

pub use check::{Findings, check};
pub use error::VerifyError;
pub use ids::JournalId;
pub use journal::{WorkloadJournal, read_journal};
pub use model::PoolModel;
pub use pool::{PoolIdentity, VerifiedPool};
pub use run::{RunFailure, RunSummary, Workload, run};
pub use workload_thread::RunCounts;
