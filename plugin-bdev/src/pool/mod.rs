//! What a pool is: which blocks it has, what was done in it, and what stands on its device.

pub(crate) mod allocator;
pub(crate) mod counters;
pub(crate) mod failure;
pub(crate) mod open;
mod open_uuids;
mod opening_context;
mod ownership;
pub(crate) mod persistence;
mod size;
pub(crate) mod state;
