//! The queue of a worker on a device that does what a test tells it, and the kernel's engines.

mod aio;
mod batches;
pub(super) mod engine;
mod grants;
mod panics;
mod results;
mod rig;
mod uring;
