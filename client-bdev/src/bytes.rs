//! Writing and reading bytes in any memory, by way of a buffer.

use chimaera_bdev_proto::{Block, Method};
use chimaera_client::{Error, Finished, PoolQuery, Task, TaskError};

use crate::client::Client;
use crate::transfer::finish_transfer;

impl Client {
    /// As [`Self::write`], of bytes in any memory. They are copied into a buffer first: where speed
    /// matters, fill a [`Buffer`](crate::Buffer) in place.
    ///
    /// # Errors
    /// As [`Self::write`] and [`Runtime::allocate_buffer`](crate::Runtime::allocate_buffer).
    pub fn write_bytes(&self, query: PoolQuery, block: &Block, bytes: &[u8]) -> Result<u64, Error> {
        self.write_bytes_at(query, block, 0, bytes)
    }

    /// As [`Self::write_bytes`], beginning at an offset in the block, in bytes.
    ///
    /// # Errors
    /// As [`Self::write_bytes`].
    pub fn write_bytes_at(
        &self,
        query: PoolQuery,
        block: &Block,
        offset_in_block: u64,
        bytes: &[u8],
    ) -> Result<u64, Error> {
        let mut buffer = self.runtime().allocate_buffer(bytes.len())?;
        buffer.copy_from_slice(bytes);
        self.write_at(query, block, offset_in_block, &buffer)
    }

    /// As [`Self::write_bytes`]. The bytes are copied before this returns.
    pub fn async_write_bytes(&self, query: PoolQuery, block: &Block, bytes: &[u8]) -> Task<u64> {
        self.async_write_bytes_at(query, block, 0, bytes)
    }

    /// As [`Self::write_bytes_at`] and [`Self::async_write_bytes`].
    pub fn async_write_bytes_at(
        &self,
        query: PoolQuery,
        block: &Block,
        offset_in_block: u64,
        bytes: &[u8],
    ) -> Task<u64> {
        let mut buffer = match self.runtime().allocate_buffer(bytes.len()) {
            Ok(buffer) => buffer,
            Err(error) => return Task::failed(error),
        };
        buffer.copy_from_slice(bytes);
        let call = self.transfer(query, Method::Write, block, offset_in_block, buffer.len());
        match call {
            Ok(call) => self.pool().submit(call, Some(buffer), finish_written),
            Err(error) => Task::failed(error),
        }
    }

    /// As [`Self::read`], into any memory, by way of a buffer. The memory does not change if the read fails.
    ///
    /// # Errors
    /// As [`Self::read`] and [`Runtime::allocate_buffer`](crate::Runtime::allocate_buffer).
    pub fn read_bytes(
        &self,
        query: PoolQuery,
        block: &Block,
        bytes: &mut [u8],
    ) -> Result<u64, Error> {
        self.read_bytes_at(query, block, 0, bytes)
    }

    /// As [`Self::read_bytes`], beginning at an offset in the block, in bytes.
    ///
    /// # Errors
    /// As [`Self::read_bytes`].
    pub fn read_bytes_at(
        &self,
        query: PoolQuery,
        block: &Block,
        offset_in_block: u64,
        bytes: &mut [u8],
    ) -> Result<u64, Error> {
        let mut buffer = self.runtime().allocate_buffer(bytes.len())?;
        let read = self.read_at(query, block, offset_in_block, &mut buffer)?;
        bytes.copy_from_slice(&buffer);
        Ok(read)
    }

    /// As [`Self::read_bytes`], of `len` bytes, which are the result, because the task cannot borrow the caller's
    /// memory.
    pub fn async_read_bytes(&self, query: PoolQuery, block: &Block, len: usize) -> Task<Vec<u8>> {
        self.async_read_bytes_at(query, block, 0, len)
    }

    /// As [`Self::read_bytes_at`] and [`Self::async_read_bytes`].
    pub fn async_read_bytes_at(
        &self,
        query: PoolQuery,
        block: &Block,
        offset_in_block: u64,
        len: usize,
    ) -> Task<Vec<u8>> {
        let buffer = match self.runtime().allocate_buffer(len) {
            Ok(buffer) => buffer,
            Err(error) => return Task::failed(error),
        };
        let call = self.transfer(query, Method::Read, block, offset_in_block, buffer.len());
        match call {
            Ok(call) => self.pool().submit(call, Some(buffer), finish_read),
            Err(error) => Task::failed(error),
        }
    }
}

/// The caller never sees the buffer, so the error does not carry it either.
fn finish_written(finished: Finished<'_>) -> Result<u64, TaskError> {
    let written = finish_transfer(finished);
    written
        .map(|(count, _)| count)
        .map_err(|error| Error::from(error).into())
}

fn finish_read(finished: Finished<'_>) -> Result<Vec<u8>, TaskError> {
    let read = finish_transfer(finished);
    read.map(|(_, buffer)| buffer.to_vec())
        .map_err(|error| Error::from(error).into())
}
