//! Calls, and what a module's client gets when their tasks have ended.

use std::fmt;

use chimaera_proto::status::result_from_word;
use chimaera_proto::task::{ARGUMENT_COUNT, VALUE_COUNT};
use chimaera_proto::{Completion, Failure, PoolId, PoolQuery, Status};
use chimaera_shm::Record;

use crate::buffer::Buffer;
use crate::error::Error;
use crate::known_pools::KnownPools;
use crate::task_error::TaskError;

/// What a task asks for. The pool's module gives method and arguments their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The pool.
    pub pool: PoolId,
    /// Which pool of this id is meant ([`PoolInfo::instance`](crate::PoolInfo::instance)); 0 for whichever the session
    /// is attached to.
    pub instance: u32,
    /// Which of the pool's containers.
    pub query: PoolQuery,
    /// The method's number in the pool's module.
    pub method: u16,
    /// Arguments, by method.
    pub arguments: [u64; ARGUMENT_COUNT],
}

/// The values of a task that succeeded, by method. What stands in those that its module has not given is not specified:
/// it may be what an earlier task had there.
pub type Values = [u64; VALUE_COUNT];

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "method {} of pool {}", self.method, self.pool)
    }
}

/// A task that has ended: what a module's client makes its result of.
pub struct Finished<'a> {
    call: &'a Call,
    record: &'a Record,
    buffer: &'a mut Option<Buffer>,
    /// Why the task was not submitted, if so. The record is a failure then.
    refusal: Option<&'a Error>,
}

impl<'a> Finished<'a> {
    #[inline]
    pub(crate) fn new(call: &'a Call, record: &'a Record, buffer: &'a mut Option<Buffer>) -> Self {
        Self {
            call,
            record,
            buffer,
            refusal: None,
        }
    }

    /// What was asked for.
    #[inline]
    #[must_use]
    pub fn call(&self) -> &Call {
        self.call
    }

    /// The values of a success.
    ///
    /// # Errors
    /// The failure, as an error of the method with its number; a module's client knows its name
    /// and replaces that text ([`Error::during`]).
    #[inline]
    pub fn values(&self) -> Result<Values, Error> {
        match result_from_word(self.record.status_word()) {
            Ok(()) => Ok(self.record.values()),
            Err(failure) => Err(refused_or_failed(self.refusal, self.call, failure)),
        }
    }

    /// The values of a task whether it succeeded or failed: a module may let a failure's say more.
    /// Those that it does not give are zero then.
    #[inline]
    #[must_use]
    pub fn values_in_any_case(&self) -> Values {
        self.record.values()
    }

    /// The buffer that went along, unless it was taken.
    #[must_use]
    pub fn buffer(&self) -> Option<&Buffer> {
        self.buffer.as_ref()
    }

    /// Takes the buffer that went along. One that is not taken is dropped with this.
    #[inline]
    #[must_use]
    pub fn take_buffer(&mut self) -> Option<Buffer> {
        self.buffer.take()
    }
}

impl fmt::Debug for Finished<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finished")
            .field("call", self.call)
            .field("record", self.record)
            .field("buffer", self.buffer)
            .finish()
    }
}

/// A task that could not be submitted, and never will be.
pub(crate) struct Refused {
    call: Call,
    buffer: Option<Buffer>,
    error: Error,
}

impl Refused {
    pub(crate) fn new(call: Call, buffer: Option<Buffer>, error: Error) -> Self {
        Self {
            call,
            buffer,
            error,
        }
    }

    pub(crate) fn call(&self) -> Call {
        self.call
    }

    /// Makes the task's result like that of a task that failed, so that a module's client describes in its own words
    /// what was refused.
    pub(crate) fn finish<T>(
        mut self,
        finish: fn(Finished<'_>) -> Result<T, TaskError>,
    ) -> Result<T, TaskError> {
        let failed = Completion::failure(self.error.failure());
        finish(Finished {
            call: &self.call,
            record: &Record::of(&failed),
            buffer: &mut self.buffer,
            refusal: Some(&self.error),
        })
    }
}

/// The values of a completion, or its failure as an error of the call, of which its connection's pools learn.
#[inline]
pub(crate) fn values(pools: &KnownPools, call: &Call, record: &Record) -> Result<Values, Error> {
    match result_from_word(record.status_word()) {
        Ok(()) => Ok(record.values()),
        Err(failure) => {
            pools.note_failure(call.pool, failure.status);
            Err(failed(call, failure))
        }
    }
}

#[cold]
fn refused_or_failed(refusal: Option<&Error>, call: &Call, failure: Failure) -> Error {
    refusal.map_or_else(|| failed(call, failure), Error::clone)
}

#[cold]
fn failed(call: &Call, failure: Failure) -> Error {
    let error = Error::new(failure, call);
    match (failure.status, call.query) {
        (Status::PoolNotFound, _) if call.pool.is_null() => error.with_detail(
            "0.0 (`PoolId::NULL`) stands for no pool: create the pool first, or open it by its name",
        ),
        (Status::InvalidArgument, PoolQuery::Range { count: 0, .. }) => error.with_detail(
            "the query names a range of 0 containers: name 1 at least, or use `PoolQuery::Local`",
        ),
        (Status::ContainerNotFound | Status::NodeNotFound, query) => error.with_detail(format_args!(
            "it asks for {query}: a pool has one container, 0, on node 0; use `PoolQuery::Local`"
        )),
        // The admin module says more where it is asked what it answers.
        (Status::InvalidArgument | Status::InvalidBuffer | Status::UnknownMethod, _)
            if call.pool == PoolId::ADMIN =>
        {
            error.with_detail(
                "1.0 (`PoolId::ADMIN`) is the admin module's pool: use `Runtime::admin`, or the id of another pool",
            )
        }
        _ => error,
    }
}
