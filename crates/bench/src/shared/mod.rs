//! What is costly to make and shared by neighbouring cases: full pools, and a daemon with many clients, one of which
//! is measured.

pub(crate) mod crowd;
pub(crate) mod file_pool;
mod kept;
pub(crate) mod ram_pool;

pub(crate) use kept::Kept;
