//! The parameters of a workload.

use std::num::NonZeroU8;

/// What a run does to a pool.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// How many threads it has, each with blocks of its own.
    pub threads: NonZeroU8,
    /// What the operations are drawn from: with one thread, the same seed gives the same operations.
    pub seed: u64,
    /// How many bytes of blocks it may hold at a time, with those of a continued journal. The threads share them
    /// evenly.
    pub space_bytes: u64,
}
