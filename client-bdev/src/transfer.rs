//! Writing and reading.
//!
//! Law of this module: a length that does not fit its block is refused here, with the status that
//! the host gives.

use chimaera_bdev_proto::{Block, Method, TransferArguments};
use chimaera_client::{
    Buffer, BufferSlice, BufferSliceMut, Call, Error, Finished, PoolQuery, Status, Task, TaskError,
    Values,
};

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
        match self.pool().send(&call, buffer) {
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
        match self.pool().receive(&call, buffer) {
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
            Ok(call) => self.pool().submit(call, Some(buffer), finish_transfer),
            Err(error) => Task::failed(TaskError::new(error, Some(buffer))),
        }
    }

    /// The call of a transfer, if the block is valid and the transfer ends in it.
    #[inline]
    pub(crate) fn transfer(
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
        // A length that a task cannot name is longer than any block.
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
        Status::BeyondBlock => error.with_detail(match offset.checked_add(len as u64) {
            Some(end) => format!(
                "the block has {} bytes, the transfer ends at {end}: transfer less, or begin earlier in the block",
                block.size
            ),
            None => format!(
                "the block has {} bytes, and an offset is one in the block: begin in it",
                block.size
            ),
        }),
        _ => error,
    }
}

#[inline]
pub(crate) fn finish_transfer(mut finished: Finished<'_>) -> Result<(u64, Buffer), TaskError> {
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

/// The number of bytes that the host says it transferred, unless it is more than the buffer has.
#[inline]
fn transferred(call: &Call, values: &Values, len: usize) -> Result<u64, Error> {
    if values[0] > len as u64 {
        return Err(impossible(call, values, len));
    }
    Ok(values[0])
}

#[cold]
fn impossible(call: &Call, values: &Values, len: usize) -> Error {
    claimed(values[0], describe(call, len))
}

#[cold]
pub(crate) fn claimed(bytes: u64, operation: String) -> Error {
    let error = Error::new(Status::ProtocolViolation, operation);
    error.with_detail(format!("the host claims {bytes} bytes"))
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

pub(crate) const fn verb(method: Method) -> &'static str {
    match method {
        Method::Write => "writing",
        Method::Read => "reading",
        _ => "transferring",
    }
}
