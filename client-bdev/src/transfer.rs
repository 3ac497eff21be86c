//! Writing and reading.
//!
//! Law of this module: a length that does not fit its block is refused here, with the status that
//! the host gives.

use std::ops::Range;

use chimaera_client::{
    Buffer, BufferSlice, BufferSliceMut, Call, Error, Finished, PartError, PoolQuery, Status, Task,
    TaskError, Values,
};
use chimaera_proto::bdev::{Block, Method, TransferArguments};

use crate::client::Client;

impl Client {
    /// Writes a buffer, or a range of one, to the beginning of a block. Gives the number of bytes
    /// written, which is all of them. Blocks until they are. Then they were given to the device;
    /// [`Self::flush`] makes them durable.
    ///
    /// # Errors
    /// [`Status::BeyondBlock`] if the block is smaller; [`Status::NotAllocated`],
    /// [`Status::WrongSize`], [`Status::OutOfRange`] if it is not such a block;
    /// [`Status::ReadOnly`] if the pool is open for reading only; [`Status::IoError`] with the
    /// device's errno.
    #[inline]
    pub fn write<'a>(
        &self,
        query: PoolQuery,
        block: &Block,
        buffer: impl Into<BufferSlice<'a>>,
    ) -> Result<u64, Error> {
        self.write_at(query, block, 0, buffer)
    }

    /// As [`Self::write`], beginning at an offset in the block, in bytes. Neither offset nor
    /// length need be aligned.
    ///
    /// # Errors
    /// As [`Self::write`].
    #[inline]
    pub fn write_at<'a>(
        &self,
        query: PoolQuery,
        block: &Block,
        offset_in_block: u64,
        buffer: impl Into<BufferSlice<'a>>,
    ) -> Result<u64, Error> {
        let buffer = buffer.into();
        let call = self.transfer(query, Method::Write, block, offset_in_block, buffer.len())?;
        match self.runtime().call_sending(&call, buffer) {
            Ok(values) => transferred(&call, &values, buffer.len()),
            Err(error) => Err(error.during(describe(&call, buffer.len()))),
        }
    }

    /// As [`Self::write`]. The buffer goes along and comes back with the result.
    #[inline]
    pub fn async_write(
        &self,
        query: PoolQuery,
        block: &Block,
        buffer: Buffer,
    ) -> Task<(u64, Buffer)> {
        self.async_write_at(query, block, 0, buffer)
    }

    /// As [`Self::write_at`] and [`Self::async_write`].
    #[inline]
    pub fn async_write_at(
        &self,
        query: PoolQuery,
        block: &Block,
        offset_in_block: u64,
        buffer: Buffer,
    ) -> Task<(u64, Buffer)> {
        self.async_transfer(query, Method::Write, block, offset_in_block, buffer)
    }

    /// Reads from the beginning of a block into a buffer, or a range of one, as many bytes as
    /// that has. Gives their number. Blocks until they are there.
    ///
    /// # Errors
    /// As [`Self::write`].
    #[inline]
    pub fn read<'a>(
        &self,
        query: PoolQuery,
        block: &Block,
        buffer: impl Into<BufferSliceMut<'a>>,
    ) -> Result<u64, Error> {
        self.read_at(query, block, 0, buffer)
    }

    /// As [`Self::read`], beginning at an offset in the block, in bytes.
    ///
    /// # Errors
    /// As [`Self::write`].
    #[inline]
    pub fn read_at<'a>(
        &self,
        query: PoolQuery,
        block: &Block,
        offset_in_block: u64,
        buffer: impl Into<BufferSliceMut<'a>>,
    ) -> Result<u64, Error> {
        let buffer = buffer.into();
        let len = buffer.len();
        let call = self.transfer(query, Method::Read, block, offset_in_block, len)?;
        match self.runtime().call_receiving(&call, buffer) {
            Ok(values) => transferred(&call, &values, len),
            Err(error) => Err(error.during(describe(&call, len))),
        }
    }

    /// As [`Self::read`]. The buffer goes along and comes back with the result.
    #[inline]
    pub fn async_read(
        &self,
        query: PoolQuery,
        block: &Block,
        buffer: Buffer,
    ) -> Task<(u64, Buffer)> {
        self.async_read_at(query, block, 0, buffer)
    }

    /// As [`Self::read_at`] and [`Self::async_read`].
    #[inline]
    pub fn async_read_at(
        &self,
        query: PoolQuery,
        block: &Block,
        offset_in_block: u64,
        buffer: Buffer,
    ) -> Task<(u64, Buffer)> {
        self.async_transfer(query, Method::Read, block, offset_in_block, buffer)
    }

    /// Writes a buffer across blocks, one after another, as far as it reaches. Many blocks are in
    /// flight at the same time. Gives the number of bytes written, which is all of them.
    ///
    /// # Errors
    /// [`Status::BeyondBlock`] if the blocks are smaller together; else as [`Self::write`], for
    /// the first block that failed, of which the text gives the position. What became of later
    /// blocks is not known then.
    pub fn write_blocks<'a>(
        &self,
        query: PoolQuery,
        blocks: &[Block],
        buffer: impl Into<BufferSlice<'a>>,
    ) -> Result<u64, Error> {
        let buffer = buffer.into();
        let parts = self.parts(query, Method::Write, blocks, buffer.len())?;
        let mut written = 0;
        let result = self
            .runtime()
            .call_parts_sending(buffer, parts, |_, values| written += values[0]);
        result.map_err(|error| self.part_error(Method::Write, blocks, error))?;
        Ok(written)
    }

    /// Reads blocks, one after another, into a buffer, as far as that reaches. Many blocks are in
    /// flight at the same time. Gives the number of bytes read, which is all of them.
    ///
    /// # Errors
    /// As [`Self::write_blocks`].
    pub fn read_blocks<'a>(
        &self,
        query: PoolQuery,
        blocks: &[Block],
        buffer: impl Into<BufferSliceMut<'a>>,
    ) -> Result<u64, Error> {
        let buffer = buffer.into();
        let parts = self.parts(query, Method::Read, blocks, buffer.len())?;
        let mut read = 0;
        let result = self
            .runtime()
            .call_parts_receiving(buffer, parts, |_, values| read += values[0]);
        result.map_err(|error| self.part_error(Method::Read, blocks, error))?;
        Ok(read)
    }

    /// The calls that transfer `len` bytes to or from blocks, and the range of the buffer for
    /// each.
    fn parts(
        &self,
        query: PoolQuery,
        method: Method,
        blocks: &[Block],
        len: usize,
    ) -> Result<impl Iterator<Item = (Call, Range<usize>)>, Error> {
        let total = blocks
            .iter()
            .fold(0u64, |total, block| total.saturating_add(block.size));
        if len as u64 > total {
            let verb = verb(method);
            let operation = format!("{verb} {len} bytes across {} blocks", blocks.len());
            return Err(Error::new(Status::BeyondBlock, operation)
                .with_detail(format!("the blocks have {total} bytes together")));
        }
        // Checked all before any is sent: a block that cannot be is no half-done transfer.
        for block in blocks {
            self.transfer(query, method, block, 0, 0)?;
        }
        let mut start = 0;
        Ok(blocks.iter().map_while(move |block| {
            let left = len - start;
            if left == 0 {
                return None;
            }
            let part = usize::try_from(block.size).map_or(left, |size| size.min(left));
            let range = start..start + part;
            start += part;
            let arguments = TransferArguments {
                block: *block,
                offset_in_block: 0,
            };
            Some((self.call(query, method, arguments.to_arguments()), range))
        }))
    }

    #[cold]
    fn part_error(&self, method: Method, blocks: &[Block], error: PartError) -> Error {
        let place = match blocks.get(error.part) {
            Some(block) => format!(" ({} at {:#x})", block.block_type, block.offset),
            None => String::new(),
        };
        let (verb, pool) = (verb(method), self.pool_id());
        error.error.during(format_args!(
            "{verb} block {} of {}{place} in pool {pool}",
            error.part + 1,
            blocks.len(),
        ))
    }

    #[inline]
    fn async_transfer(
        &self,
        query: PoolQuery,
        method: Method,
        block: &Block,
        offset_in_block: u64,
        buffer: Buffer,
    ) -> Task<(u64, Buffer)> {
        match self.transfer(query, method, block, offset_in_block, buffer.len()) {
            Ok(call) => self.runtime().submit(call, Some(buffer), finish_transfer),
            Err(error) => Task::failed(TaskError::new(error, Some(buffer))),
        }
    }

    /// The call of a transfer, if there can be such a block and the transfer ends in it.
    #[inline]
    fn transfer(
        &self,
        query: PoolQuery,
        method: Method,
        block: &Block,
        offset_in_block: u64,
        len: usize,
    ) -> Result<Call, Error> {
        let arguments = TransferArguments {
            block: *block,
            offset_in_block,
        };
        let call = self.call(query, method, arguments.to_arguments());
        // What is longer than a task can name is longer than any block.
        let len_bytes = u32::try_from(len).unwrap_or(u32::MAX);
        match TransferArguments::parse(call.arguments, len_bytes) {
            Ok(_) => Ok(call),
            Err(status) => Err(refused(status, &call, block, offset_in_block, len)),
        }
    }
}

#[cold]
fn refused(status: Status, call: &Call, block: &Block, offset: u64, len: usize) -> Error {
    let error = Error::new(status, describe(call, len));
    match status {
        Status::BeyondBlock => error.with_detail(format!(
            "the block has {} bytes, the transfer ends at {}",
            block.size,
            offset.saturating_add(len as u64)
        )),
        _ => error,
    }
}

#[inline]
fn finish_transfer(mut finished: Finished<'_>) -> Result<(u64, Buffer), TaskError> {
    let buffer = finished.take_buffer();
    let len = buffer.as_ref().map_or(0, |buffer| buffer.len());
    let result = finished
        .values()
        .map_err(|error| error.during(describe(finished.call(), len)))
        .and_then(|values| transferred(finished.call(), &values, len));
    match (result, buffer) {
        (Ok(count), Some(buffer)) => Ok((count, buffer)),
        (Err(error), buffer) => Err(TaskError::new(error, buffer)),
        (Ok(_), None) => unreachable!("a transfer's buffer comes back with it"),
    }
}

/// The number of bytes that the host says it transferred, if it can be.
#[inline]
fn transferred(call: &Call, values: &Values, len: usize) -> Result<u64, Error> {
    if values[0] > len as u64 {
        return Err(impossible(call, values, len));
    }
    Ok(values[0])
}

#[cold]
fn impossible(call: &Call, values: &Values, len: usize) -> Error {
    Error::new(Status::ProtocolViolation, describe(call, len))
        .with_detail(format!("the host claims {} bytes", values[0]))
}

fn describe(call: &Call, len: usize) -> String {
    let [offset, size_and_type, offset_in_block] = call.arguments;
    let verb = Method::from_number(call.method).map_or("transferring", verb);
    let pool = call.pool;
    let block = match Block::from_words([offset, size_and_type]) {
        Ok(block) => format!("the block of {} at {offset:#x}", block.block_type),
        Err(_) => format!("an impossible block at {offset:#x}"),
    };
    format!("{verb} {len} bytes at offset {offset_in_block} of {block} in pool {pool}")
}

const fn verb(method: Method) -> &'static str {
    match method {
        Method::Write => "writing",
        Method::Read => "reading",
        _ => "transferring",
    }
}
