//! The client of the echo module: what an application uses.
//!
//! ```no_run
//! use chimaera_echo_client::{Client, PoolId, PoolQuery, Runtime};
//!
//! # fn main() -> Result<(), chimaera_echo_client::Error> {
//! let runtime = Runtime::connect()?;
//! let client = Client::new(&runtime, PoolId::new(9000, 0));
//! client.create(PoolQuery::Dynamic, "a pool", "hello")?;
//! assert_eq!(client.echo(7)?, 7);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

use chimaera_client::{
    Buffer, Call, Finished, GetOrCreatePool, PoolHandle, PoolInfo, Task, TaskError,
};
pub use chimaera_client::{Error, PoolId, PoolQuery, Runtime, Status};
use chimaera_echo_proto::{MAX_GREETING_BYTES, MODULE_NAME, Method};

/// A pool, from a client's side. Any number of threads can use it.
#[derive(Clone, Debug)]
pub struct Client {
    pool: PoolHandle,
}

impl Client {
    /// A client of the pool with this id, which [`Client::create`] makes if it is not there yet.
    #[must_use]
    pub fn new(runtime: &Runtime, pool: PoolId) -> Self {
        Self {
            pool: PoolHandle::new(runtime, MODULE_NAME, pool),
        }
    }

    /// Makes the pool, or finds it with the same greeting. Blocks.
    ///
    /// # Errors
    /// [`Status::ParameterMismatch`] if it is there with another greeting;
    /// [`Status::InvalidArgument`] for a greeting that is too long.
    pub fn create(&self, query: PoolQuery, name: &str, greeting: &str) -> Result<PoolInfo, Error> {
        Ok(self.async_create(query, name, greeting).wait()?)
    }

    /// As [`Self::create`], without waiting.
    pub fn async_create(&self, query: PoolQuery, name: &str, greeting: &str) -> Task<PoolInfo> {
        let params = greeting.as_bytes().to_vec();
        let request = GetOrCreatePool::new(MODULE_NAME, name, self.pool.id(), params);
        self.pool.async_create(query, &request)
    }

    /// Sends a word there and back: an empty task. Blocks.
    ///
    /// # Errors
    /// [`Status::PoolNotFound`], [`Status::PermissionDenied`], [`Status::ConnectionLost`].
    #[inline]
    pub fn echo(&self, word: u64) -> Result<u64, Error> {
        let values = self.pool.carry_out(&self.call(Method::Echo, word))?;
        Ok(values[0])
    }

    /// As [`Self::echo`], without waiting.
    #[inline]
    pub fn async_echo(&self, word: u64) -> Task<u64> {
        self.pool
            .submit(self.call(Method::Echo, word), None, |finished| {
                Ok(finished.values()?[0])
            })
    }

    /// Reverses the bytes of a buffer. Blocks.
    ///
    /// # Errors
    /// As [`Self::echo`].
    pub fn reverse(&self, buffer: &mut Buffer) -> Result<(), Error> {
        self.pool
            .receive(&self.call(Method::Reverse, 0), buffer.into())?;
        Ok(())
    }

    /// As [`Self::reverse`], without waiting. The buffer goes along and comes back.
    pub fn async_reverse(&self, buffer: Buffer) -> Task<Buffer> {
        self.pool
            .submit(self.call(Method::Reverse, 0), Some(buffer), reversed)
    }

    /// The pool's greeting. Blocks.
    ///
    /// # Errors
    /// As [`Self::echo`]; [`Status::OutOfMemory`].
    pub fn greet(&self) -> Result<String, Error> {
        Ok(self.async_greet().wait()?)
    }

    /// As [`Self::greet`], without waiting.
    pub fn async_greet(&self) -> Task<String> {
        let call = self.call(Method::Greet, 0);
        match self.pool.runtime().allocate_buffer(MAX_GREETING_BYTES) {
            Ok(buffer) => self.pool.submit(call, Some(buffer), greeted),
            Err(error) => Task::failed(error),
        }
    }

    fn call(&self, method: Method, argument: u64) -> Call {
        self.pool
            .call(PoolQuery::Local, method as u16, [argument, 0, 0])
    }
}

fn reversed(mut finished: Finished<'_>) -> Result<Buffer, TaskError> {
    match (finished.values(), finished.take_buffer()) {
        (Ok(_), Some(buffer)) => Ok(buffer),
        (Err(error), buffer) => Err(TaskError::new(error, buffer)),
        (Ok(_), None) => unreachable!("a buffer that goes along comes back"),
    }
}

fn greeted(finished: Finished<'_>) -> Result<String, TaskError> {
    let values = finished.values()?;
    // The length is the host's; one that no greeting has reads as none.
    let len = usize::try_from(values[0]).unwrap_or(usize::MAX);
    let bytes = finished.buffer().and_then(|buffer| buffer.get(..len));
    Ok(String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned())
}
