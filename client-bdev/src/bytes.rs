//! Writing and reading bytes that lie anywhere, by way of a buffer.

use chimaera_client::{Error, PoolQuery, Task};
use chimaera_proto::bdev::Block;

use crate::client::Client;

impl Client {
    /// As [`Self::write`], of bytes that lie anywhere. They are copied into a buffer first: where speed
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
        let write = self.async_write_at(query, block, offset_in_block, buffer);
        Task::of_steps(async move {
            // The buffer is nobody's business, also if this fails.
            let (written, _) = write.await.map_err(Error::from)?;
            Ok(written)
        })
    }

    /// As [`Self::read`], into memory that lies anywhere, by way of a buffer. Nothing of it changes if the
    /// read fails.
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

    /// As [`Self::read_bytes`], of `len` bytes, which are the result: memory that is lent for as long as this
    /// returns cannot be filled later.
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
        let read = self.async_read_at(query, block, offset_in_block, buffer);
        Task::of_steps(async move {
            let (_, buffer) = read.await.map_err(Error::from)?;
            Ok(buffer.to_vec())
        })
    }
}
