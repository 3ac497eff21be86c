//! Allocating and freeing blocks.

use chimaera_client::{Buffer, Call, Error, Finished, PoolQuery, Status, Task, TaskError, Values};
use chimaera_proto::bdev::{
    AllocationPlan, BLOCK_WIRE_BYTES, Block, INLINE_BLOCKS, Method, OwnerTag, allocate_arguments,
    free_arguments,
};

use crate::client::Client;

impl Client {
    /// Allocates blocks for `size` bytes: below 1 MiB one block of the smallest type that holds
    /// them, from there on blocks of 1 MiB, rounded up; none for 0. All of them, or none.
    ///
    /// # Errors
    /// [`Status::NoSpace`].
    pub fn allocate_blocks(&self, query: PoolQuery, size: u64) -> Result<Vec<Block>, Error> {
        let plan = AllocationPlan::for_size(size);
        if plan.count > INLINE_BLOCKS as u64 {
            return Ok(self.async_allocate_blocks(query, size)?.wait()?);
        }
        let call = self.call(
            query,
            Method::AllocateBlocks,
            allocate_arguments(size, OwnerTag::NONE),
        );
        match self.runtime().call(&call) {
            Ok(values) => read_blocks(&call, &values, &[]),
            Err(error) => Err(error.during(describe_allocation(&call))),
        }
    }

    /// As [`Self::allocate_blocks`].
    ///
    /// # Errors
    /// Those of submitting, and [`Status::NoSpace`] for a size that no pool has; the others come
    /// with the task.
    pub fn async_allocate_blocks(
        &self,
        query: PoolQuery,
        size: u64,
    ) -> Result<Task<Vec<Block>>, TaskError> {
        let call = self.call(
            query,
            Method::AllocateBlocks,
            allocate_arguments(size, OwnerTag::NONE),
        );
        let plan = AllocationPlan::for_size(size);
        let list = if plan.count > INLINE_BLOCKS as u64 {
            Some(self.list_buffer(plan, &call)?)
        } else {
            None
        };
        self.runtime()
            .submit(call, list, finish_allocation)
            .map_err(|error| error.error.during(describe_allocation(&call)).into())
    }

    /// A buffer that the list of a plan's blocks fits exactly.
    fn list_buffer(&self, plan: AllocationPlan, call: &Call) -> Result<Buffer, Error> {
        let bytes = plan
            .list_bytes()
            .and_then(|bytes| u32::try_from(bytes).ok())
            .ok_or_else(|| {
                Error::new(Status::NoSpace, describe_allocation(call)).with_detail(format!(
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
    /// # Errors
    /// [`Status::DoubleFree`] if one is not allocated or is named twice, [`Status::WrongSize`] if
    /// one is not as it was allocated, [`Status::OutOfRange`].
    pub fn free_blocks(&self, query: PoolQuery, blocks: &[Block]) -> Result<(), Error> {
        let &[block] = blocks else {
            return Ok(self.async_free_blocks(query, blocks)?.wait()?);
        };
        let call = self.call(query, Method::FreeBlocks, free_arguments(1, Some(block)));
        match self.runtime().call(&call) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.during(describe_free(&call))),
        }
    }

    /// As [`Self::free_blocks`].
    ///
    /// # Errors
    /// Those of submitting; the others come with the task.
    pub fn async_free_blocks(
        &self,
        query: PoolQuery,
        blocks: &[Block],
    ) -> Result<Task<()>, TaskError> {
        let single = match blocks {
            &[block] => Some(block),
            _ => None,
        };
        let arguments = free_arguments(blocks.len() as u64, single);
        let call = self.call(query, Method::FreeBlocks, arguments);
        let list = if blocks.len() > 1 {
            let mut list = self
                .runtime()
                .allocate_buffer(blocks.len() * BLOCK_WIRE_BYTES)
                .map_err(|error| error.during(describe_free(&call)))?;
            for (bytes, block) in list.chunks_exact_mut(BLOCK_WIRE_BYTES).zip(blocks) {
                bytes.copy_from_slice(&block.to_bytes());
            }
            Some(list)
        } else {
            None
        };
        self.runtime()
            .submit(call, list, |finished| match finished.values() {
                Ok(_) => Ok(()),
                Err(error) => Err(error.during(describe_free(finished.call())).into()),
            })
            .map_err(|error| error.error.during(describe_free(&call)).into())
    }
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
