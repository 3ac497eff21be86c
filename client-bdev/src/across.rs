//! Writing and reading across blocks: parts of one buffer, many of them in flight at the same time.

use std::ops::Range;

use chimaera_bdev_proto::{Block, Method, TransferArguments};
use chimaera_client::{
    Buffer, BufferSlice, BufferSliceMut, Call, Error, PartError, PoolQuery, Status, Task,
    TaskError, Values,
};

use crate::client::Client;
use crate::transfer::{claimed, verb};

impl Client {
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
        let mut total = Total::default();
        let result = self
            .pool()
            .send_parts(buffer, parts, |_, values| total.add(values));
        result.map_err(|error| self.part_error(Method::Write, blocks, error))?;
        total.check(
            || describe_blocks(Method::Write, blocks, buffer.len()),
            buffer.len(),
        )
    }

    /// As [`Self::write_blocks`]. The buffer goes along and comes back with the result, when every block's
    /// transfer has ended. Dropping the task gives up the result: blocks that are in flight are written all
    /// the same, those after them are not.
    pub fn async_write_blocks(
        &self,
        query: PoolQuery,
        blocks: &[Block],
        buffer: Buffer,
    ) -> Task<(u64, Buffer)> {
        self.async_transfer_blocks(query, Method::Write, blocks, buffer)
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
        let len = buffer.len();
        let parts = self.parts(query, Method::Read, blocks, len)?;
        let mut total = Total::default();
        let result = self
            .pool()
            .receive_parts(buffer, parts, |_, values| total.add(values));
        result.map_err(|error| self.part_error(Method::Read, blocks, error))?;
        total.check(|| describe_blocks(Method::Read, blocks, len), len)
    }

    /// As [`Self::read_blocks`] and [`Self::async_write_blocks`].
    pub fn async_read_blocks(
        &self,
        query: PoolQuery,
        blocks: &[Block],
        buffer: Buffer,
    ) -> Task<(u64, Buffer)> {
        self.async_transfer_blocks(query, Method::Read, blocks, buffer)
    }

    fn async_transfer_blocks(
        &self,
        query: PoolQuery,
        method: Method,
        blocks: &[Block],
        buffer: Buffer,
    ) -> Task<(u64, Buffer)> {
        let (client, blocks, len) = (self.clone(), blocks.to_vec(), buffer.len());
        Task::of_steps(async move {
            let parts = match client.parts(query, method, &blocks, len) {
                Ok(parts) => parts,
                Err(error) => return Err(TaskError::new(error, Some(buffer))),
            };
            let mut total = Total::default();
            let ended = client
                .pool()
                .submit_parts(buffer, parts, |_, values| total.add(values));
            let buffer = ended.await.map_err(|(error, buffer)| {
                TaskError::new(client.part_error(method, &blocks, error), buffer)
            })?;
            match total.check(|| describe_blocks(method, &blocks, len), len) {
                Ok(count) => Ok((count, buffer)),
                Err(error) => Err(TaskError::new(error, Some(buffer))),
            }
        })
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
            let operation = describe_blocks(method, blocks, len);
            return Err(Error::new(Status::BeyondBlock, operation)
                .with_detail(format!("the blocks have {total} bytes together")));
        }
        // All blocks are checked before any is transferred, so that an invalid one does not leave a transfer half done.
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
        let at = match blocks.get(error.part) {
            Some(block) => format!(" ({} at {:#x})", block.block_type, block.offset),
            None => String::new(),
        };
        let (verb, pool) = (verb(method), self.pool_id());
        error.error.during(format_args!(
            "{verb} block {} of {}{at} in pool {pool}",
            error.part + 1,
            blocks.len(),
        ))
    }
}

/// The number of bytes that the host says it transferred, for all blocks together.
#[derive(Default)]
struct Total(u64);

impl Total {
    fn add(&mut self, values: &Values) {
        // A sum that saturates is beyond the length of every buffer.
        self.0 = self.0.saturating_add(values[0]);
    }

    /// The total, unless it is more than the buffer has.
    fn check(self, operation: impl FnOnce() -> String, len: usize) -> Result<u64, Error> {
        if self.0 > len as u64 {
            return Err(claimed(self.0, operation()));
        }
        Ok(self.0)
    }
}

fn describe_blocks(method: Method, blocks: &[Block], len: usize) -> String {
    let verb = verb(method);
    format!("{verb} {len} bytes across {} blocks", blocks.len())
}
