//! The module that the tests talk to, and short words for talking to it.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::panic::{self, AssertUnwindSafe};
use std::sync::Barrier;
use std::thread;

use chimaera_client::proto::Descriptor;
use chimaera_client::{
    Buffer, Call, Finished, PoolId, PoolQuery, Runtime, Status, Task, TaskError, Values,
};
use chimaera_testing::{HostBuffer, Verdict};

/// Gives the arguments back.
pub(crate) const ECHO: u16 = 1;
/// As [`ECHO`], when the test says so.
pub(crate) const HOLD: u16 = 2;
/// Fills the buffer with the first argument's low byte.
pub(crate) const FILL: u16 = 3;
/// Adds up the buffer's bytes.
pub(crate) const SUM: u16 = 4;
/// Fails with the status whose code the first argument is.
pub(crate) const FAIL: u16 = 5;
/// Gives the buffer's address in the host.
pub(crate) const LOCATE: u16 = 6;

pub(crate) fn module(task: Descriptor, buffer: Option<HostBuffer>) -> Verdict {
    match task.method {
        ECHO => Verdict::ok(&task.arguments),
        HOLD => Verdict::Hold,
        FILL => {
            let buffer = buffer.expect("a buffer");
            buffer.write(&vec![task.arguments[0] as u8; buffer.len()]);
            Verdict::ok(&[buffer.len() as u64])
        }
        SUM => {
            let bytes = buffer.expect("a buffer").read();
            Verdict::ok(&[bytes.iter().map(|&byte| u64::from(byte)).sum()])
        }
        FAIL => Verdict::fail(Status::from_code(task.arguments[0] as u16).expect("a status")),
        LOCATE => Verdict::ok(&[buffer.expect("a buffer").address() as u64]),
        _ => Verdict::fail(Status::UnknownMethod),
    }
}

pub(crate) fn call(method: u16, argument: u64) -> Call {
    Call {
        pool: PoolId::new(9000, 0),
        instance: 0,
        query: PoolQuery::Local,
        method,
        arguments: [argument, 0, 0],
    }
}

pub(crate) fn echo(runtime: &Runtime, argument: u64) -> u64 {
    runtime.call(&call(ECHO, argument)).expect("echo")[0]
}

/// Submits; the result is the first value.
pub(crate) fn submit(runtime: &Runtime, method: u16, argument: u64) -> Task<u64> {
    runtime.submit(call(method, argument), None, |finished| {
        Ok(finished.values()?[0])
    })
}

/// Submits with a buffer; the result is the first value and the buffer.
pub(crate) fn submit_buffer(
    runtime: &Runtime,
    method: u16,
    argument: u64,
    buffer: Buffer,
) -> Task<(u64, Buffer)> {
    runtime.submit(call(method, argument), Some(buffer), with_buffer)
}

pub(crate) fn with_buffer(mut finished: Finished<'_>) -> Result<(u64, Buffer), TaskError> {
    let buffer = finished.take_buffer();
    match (finished.values(), buffer) {
        (Ok(values), Some(buffer)) => Ok((first(&values), buffer)),
        (Ok(_), None) => unreachable!("the buffer comes back"),
        (Err(error), buffer) => Err(TaskError::new(error, buffer)),
    }
}

fn first(values: &Values) -> u64 {
    values[0]
}

/// Runs `body` while so many threads, of which each owns a lane of the connection, wait for it to end.
pub(crate) fn while_lanes_are_owned<T>(
    runtime: &Runtime,
    count: usize,
    body: impl FnOnce() -> T,
) -> T {
    let (owned, ended) = (Barrier::new(count + 1), Barrier::new(count + 1));
    thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| {
                echo(runtime, 0);
                owned.wait();
                ended.wait();
            });
        }
        owned.wait();
        // Also if it panics, or the threads would wait for ever.
        let result = panic::catch_unwind(AssertUnwindSafe(body));
        ended.wait();
        result.unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}
