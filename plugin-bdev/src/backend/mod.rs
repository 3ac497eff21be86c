//! How bytes get to a pool's memory or device.

pub(crate) mod file;
pub(crate) mod ram;
mod stream;
pub(crate) mod transfer;
