//! Modules that are part of the host.

pub(crate) mod admin;
