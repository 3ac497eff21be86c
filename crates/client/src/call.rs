//! What a module's client asks for, and what it gets.

use std::fmt;

use chimaera_proto::task::{ARGUMENT_COUNT, VALUE_COUNT};
use chimaera_proto::{Completion, PoolId, PoolQuery};

use crate::buffer::Buffer;
use crate::error::Error;

/// What a task asks for. The pool's module gives method and arguments their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The pool.
    pub pool: PoolId,
    /// Which of the pool's containers.
    pub query: PoolQuery,
    /// The method's number in the pool's module.
    pub method: u16,
    /// Arguments, by method.
    pub arguments: [u64; ARGUMENT_COUNT],
}

/// The values of a task that succeeded, by method.
pub type Values = [u64; VALUE_COUNT];

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "method {} of pool {}", self.method, self.pool)
    }
}

/// A task that has ended: what a module's client makes its result of.
#[derive(Debug)]
pub struct Finished {
    /// What was asked for.
    pub call: Call,
    /// How it ended.
    pub completion: Completion,
    /// The buffer that went along.
    pub buffer: Option<Buffer>,
}

impl Finished {
    /// The values of a success.
    ///
    /// # Errors
    /// The failure, as an error of the method with its number; a module's client knows its name
    /// and replaces that text ([`Error::during`]).
    pub fn values(&self) -> Result<Values, Error> {
        values(&self.call, &self.completion)
    }
}

/// The values of a completion, or its failure as an error of the call.
#[inline]
pub(crate) fn values(call: &Call, completion: &Completion) -> Result<Values, Error> {
    match completion.result() {
        Ok(values) => Ok(*values),
        Err(failure) => Err(Error::new(failure, call)),
    }
}
