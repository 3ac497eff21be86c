//! Proves that a block device pool keeps across crashes what it promises.
//!
//! [`run()`] keeps a workload going against a pool and notes in a journal, which lies outside of the pool, what has been
//! flushed. [`check()`] compares a pool with what its journal promises. Between them the daemon may be killed or the
//! machine lose its power, as often as one likes; a further run continues the journal.
//!
//! The journal is a text file of the workload's, and has nothing to do with the journal on a pool's device.
//!
//! Every call blocks until it is done: requests to the pool wait for its answers, and journals for their device.

#![forbid(unsafe_code)]

mod block_contents;
mod check;
mod error;
mod journal;
mod line;
mod model;
mod pool;
mod run;
#[cfg(test)]
mod simulated_pool;
mod split_mix;
#[cfg(test)]
mod tests;
mod workload_thread;

pub use block_contents::JournalId;
pub use check::{Findings, check};
pub use error::VerifyError;
pub use journal::{WorkloadJournal, read_journal};
pub use line::PoolIdentity;
pub use model::PoolModel;
pub use pool::BlockPool;
pub use run::{RunFailure, RunSummary, Workload, run};
pub use workload_thread::RunCounts;
