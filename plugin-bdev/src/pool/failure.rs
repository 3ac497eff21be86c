//! How a pool's tasks fail.

#![forbid(unsafe_code)]

use std::io;

use chimaera_chimod::Request;
use chimaera_proto::{Failure, Status};

use super::counters::WorkerCounters;

/// Completes a task as failed, and counts that.
pub(crate) fn refuse(counters: &WorkerCounters, request: Request, failure: impl Into<Failure>) {
    counters.errors.add(1);
    request.fail(failure);
}

/// The failure of a task that an error of the device or of its metadata stands for.
pub(crate) fn failure_of(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::InvalidData => Status::CorruptedMetadata.into(),
        _ => Failure::io(error.raw_os_error().unwrap_or(0)),
    }
}
