//! What a task of each kind does.

pub(crate) mod allocation;
pub(crate) mod keeper;
pub(crate) mod listing;
pub(crate) mod stats;
pub(crate) mod transfer;
mod zeroing;
