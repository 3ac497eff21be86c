//! Allocating and freeing blocks.

use chimaera_bdev_proto::{
    AllocationPlan, BLOCK_WIRE_BYTES, Block, INLINE_BLOCKS, Method, OwnerTag, allocate_arguments,
    free_arguments,
};
use chimaera_client::{Buffer, Call, Error, Finished, PoolQuery, Status, Task, TaskError, Values};

use crate::client::Client;

impl Client {
    /// Allocates blocks for `size` bytes: below 1 MiB one block of the smallest type that holds
    /// them, from there on blocks of 1 MiB, rounded up; none for 0. All of them, or none. They carry
    /// no owner tag: see [`Self::allocate_blocks_for`].
    ///
    /// On a persistent pool the allocation is durable once a [`Self::flush`] that came after it has succeeded. The
    /// space of a block that was flushed and then freed is allocated again only when its free is durable; the pool
    /// flushes by itself when it runs out of space, so an allocation may wait for a flush.
    ///
    /// # Errors
    /// [`Status::NoSpace`]; [`Status::ReadOnly`] if the pool is open for reading only.
    #[inline]
    pub fn allocate_blocks(&self, query: PoolQuery, size: u64) -> Result<Vec<Block>, Error> {
        self.allocate_blocks_for(query, size, OwnerTag::NONE)
    }

    /// As [`Self::allocate_blocks`]; the pool keeps the tag with every block and gives it back in
    /// [`Self::list_blocks`]. The application gives the tag its meaning. It is no permission: whoever may use the pool
    /// may use the block.
    ///
    /// # Errors
    /// As [`Self::allocate_blocks`].
    pub fn allocate_blocks_for(
        &self,
        query: PoolQuery,
        size: u64,
        owner: OwnerTag,
    ) -> Result<Vec<Block>, Error> {
        let plan = AllocationPlan::for_size(size);
        if plan.count > INLINE_BLOCKS as u64 {
            return Ok(self.async_allocate_blocks_for(query, size, owner).wait()?);
        }
        let arguments = allocate_arguments(size, owner);
        let call = self.call(query, Method::AllocateBlocks, arguments);
        match self.pool().carry_out(&call) {
            Ok(values) => read_blocks(&call, &values, &[]),
            Err(error) => Err(error.during(describe_allocation(&call))),
        }
    }

    /// As [`Self::allocate_blocks`].
    #[inline]
    pub fn async_allocate_blocks(&self, query: PoolQuery, size: u64) -> Task<Vec<Block>> {
        self.async_allocate_blocks_for(query, size, OwnerTag::NONE)
    }

    /// As [`Self::allocate_blocks_for`].
    pub fn async_allocate_blocks_for(
        &self,
        query: PoolQuery,
        size: u64,
        owner: OwnerTag,
    ) -> Task<Vec<Block>> {
        let arguments = allocate_arguments(size, owner);
        let call = self.call(query, Method::AllocateBlocks, arguments);
        let plan = AllocationPlan::for_size(size);
        let list = if plan.count > INLINE_BLOCKS as u64 {
            match self.list_buffer(plan, &call) {
                Ok(list) => Some(list),
                Err(error) => return Task::failed(error),
            }
        } else {
            None
        };
        self.pool().submit(call, list, finish_allocation)
    }

    /// A buffer that the list of a plan's blocks fits exactly.
    fn list_buffer(&self, plan: AllocationPlan, call: &Call) -> Result<Buffer, Error> {
        let bytes = plan
            .list_bytes()
            .and_then(|bytes| u32::try_from(bytes).ok())
            .ok_or_else(|| {
                Error::new(Status::NoSpace, describe_allocation(call)).with_account(format!(
                    "a list of {} blocks does not fit a task: allocate in several steps",
                    plan.count
                ))
            })?;
        self.runtime()
            .allocate_buffer(bytes as usize)
            .map_err(|error| error.during(describe_allocation(call)))
    }

    /// Frees blocks, of any types, in any order. All of them, or none.
    ///
    /// On a persistent pool a free is durable once a [`Self::flush`] that came after it has
    /// succeeded; a crash before may bring the blocks back, as they were.
    ///
    /// # Errors
    /// [`Status::DoubleFree`] if one is not allocated or is named twice, [`Status::WrongSize`] if
    /// one is not as it was allocated, [`Status::OutOfRange`]; [`Status::ReadOnly`] if the pool is
    /// open for reading only.
    pub fn free_blocks(&self, query: PoolQuery, blocks: &[Block]) -> Result<(), Error> {
        let &[block] = blocks else {
            return Ok(self.async_free_blocks(query, blocks).wait()?);
        };
        let call = self.call(query, Method::FreeBlocks, free_arguments(1, Some(block)));
        match self.pool().carry_out(&call) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.during(describe_free(&call))),
        }
    }

    /// As [`Self::free_blocks`].
    pub fn async_free_blocks(&self, query: PoolQuery, blocks: &[Block]) -> Task<()> {
        let single = match blocks {
            &[block] => Some(block),
            _ => None,
        };
        let arguments = free_arguments(blocks.len() as u64, single);
        let call = self.call(query, Method::FreeBlocks, arguments);
        let list = if blocks.len() > 1 {
            let allocated = self
                .runtime()
                .allocate_buffer(blocks.len() * BLOCK_WIRE_BYTES);
            let mut list = match allocated {
                Ok(list) => list,
                Err(error) => return Task::failed(error.during(describe_free(&call))),
            };
            for (bytes, block) in list.chunks_exact_mut(BLOCK_WIRE_BYTES).zip(blocks) {
                bytes.copy_from_slice(&block.to_bytes());
            }
            Some(list)
        } else {
            None
        };
        self.pool().submit(call, list, finish_free)
    }
}

fn finish_free(finished: Finished<'_>) -> Result<(), TaskError> {
    let Err(error) = finished.values() else {
        return Ok(());
    };
    let operation = describe_free(finished.call());
    Err(match refused_block(&finished) {
        Some((number, block)) => error.during(format_args!(
            "{operation}, of which number {number} ({} at {:#x}) is refused",
            block.block_type, block.offset
        )),
        None => error.during(operation),
    }
    .into())
}

/// The block of a list for which it was not freed, and its number, if the host says it and it can be.
fn refused_block(finished: &Finished<'_>) -> Option<(usize, Block)> {
    let number = usize::try_from(finished.values_in_any_case()[0]).ok()?;
    let (entries, _) = finished.buffer()?.as_chunks::<BLOCK_WIRE_BYTES>();
    let &entry = entries.get(number.checked_sub(1)?)?;
    Some((number, Block::from_bytes(entry).ok()?))
}

fn finish_allocation(finished: Finished<'_>) -> Result<Vec<Block>, TaskError> {
    let call = finished.call();
    let values = finished
        .values()
        .map_err(|error| error.during(describe_allocation(call)))?;
    let list = finished.buffer().map_or(&[][..], |buffer| &buffer[..]);
    Ok(read_blocks(call, &values, list)?)
}

/// Reads the blocks of an allocation: from the values if they are few, else from the list. They
/// must be those that were asked for, in number and type.
fn read_blocks(call: &Call, values: &Values, list: &[u8]) -> Result<Vec<Block>, Error> {
    let plan = AllocationPlan::for_size(call.arguments[0]);
    let violation = |detail: &str| {
        Err(Error::new(Status::ProtocolViolation, describe_allocation(call)).with_detail(detail))
    };
    if values[0] != plan.count {
        return violation("the host gave another number of blocks than was asked for");
    }
    let blocks: Result<Vec<Block>, Status> = if plan.count <= INLINE_BLOCKS as u64 {
        let (pairs, _) = values[1..].as_chunks::<2>();
        let pairs = pairs.iter().take(plan.count as usize);
        pairs.map(|&words| Block::from_words(words)).collect()
    } else {
        let (entries, _) = list.as_chunks::<BLOCK_WIRE_BYTES>();
        entries
            .iter()
            .map(|&bytes| Block::from_bytes(bytes))
            .collect()
    };
    match blocks {
        Ok(blocks)
            if blocks.len() as u64 == plan.count
                && blocks
                    .iter()
                    .all(|block| block.block_type == plan.block_type) =>
        {
            Ok(blocks)
        }
        _ => violation("the host gave blocks that cannot be"),
    }
}

fn describe_allocation(call: &Call) -> String {
    format!(
        "allocating {} bytes in pool {}",
        call.arguments[0], call.pool
    )
}

fn describe_free(call: &Call) -> String {
    let [count, a, b] = call.arguments;
    match Block::from_words([a, b]) {
        Ok(block) if count == 1 => format!(
            "freeing the block of {} at {:#x} in pool {}",
            block.block_type, block.offset, call.pool
        ),
        _ => format!("freeing {count} blocks in pool {}", call.pool),
    }
}
