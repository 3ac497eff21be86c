//! What is costly to make and shared by neighbouring cases: pools that are full, a daemon among whose many clients one is
//! measured.

pub(crate) mod crowd;
pub(crate) mod file_pool;
mod kept;
pub(crate) mod ram_pool;

pub(crate) use kept::Kept;
