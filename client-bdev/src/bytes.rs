//! Writing and reading bytes that lie anywhere, by way of a buffer.

use chimaera_client::{Error, PoolQuery};
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
}
