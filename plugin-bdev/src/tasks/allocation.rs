//! Tasks that allocate and free blocks.
//!
//! A list of blocks is read from the client's buffer once, into private memory, and its count is checked
//! against what the buffer really holds. A buffer that is too small for the answer is refused before anything
//! was allocated.

#![forbid(unsafe_code)]

use chimaera_bdev_allocator::Allocator;
use chimaera_bdev_proto::{
    AllocationPlan, BLOCK_WIRE_BYTES, Block, INLINE_BLOCKS, OwnerTag, UNIT_BYTES,
};
use chimaera_chimod::{Request, WritableBuffer};
use chimaera_proto::task::VALUE_COUNT;
use chimaera_proto::{Failure, Status};

use crate::backend::new_blocks::NewBlocks;
use crate::pool::allocator::PendingFree;
use crate::pool::counters::WorkerCounters;
use crate::pool::failure::refuse;

/// Blocks that are read from a list at a time.
const CHUNK_BLOCKS: usize = 256;

/// What becomes of an allocation.
#[derive(Debug)]
pub(crate) enum AllocationOutcome {
    /// The task has completed, or was refused.
    Completed,
    /// The task has completed, and the pool's keeper should commit, since many owner tags wait for that.
    CompletedAmongManyTags,
    /// There is not enough space, but more will be there when frees are durable.
    NeedsFrees(Request),
    /// There is no room for its owner tag before a commit.
    NeedsTagRoom(Request),
}

/// Allocates blocks as the task asks, and completes it, unless it has to wait for a commit.
pub(crate) fn allocate(
    allocator: &Allocator<PendingFree>,
    worker_index: usize,
    counters: &WorkerCounters,
    request: Request,
) -> AllocationOutcome {
    let asked = asked_by(&request);
    match attempt(allocator, worker_index, asked, &request) {
        Ok(values) => complete(allocator, asked, counters, request, &values),
        Err(status) => not_allocated(allocator, (worker_index, asked), counters, request, status),
    }
}

#[inline(always)]
fn complete(
    allocator: &Allocator<PendingFree>,
    (plan, owner): (AllocationPlan, OwnerTag),
    counters: &WorkerCounters,
    request: Request,
    values: &[u64; VALUE_COUNT],
) -> AllocationOutcome {
    counters.allocations.add(plan.count);
    request.complete(values);
    match !owner.is_none() && allocator.wants_commit() {
        true => AllocationOutcome::CompletedAmongManyTags,
        false => AllocationOutcome::Completed,
    }
}

/// Decides what becomes of an allocation that failed once: it is tried again, refused, or returned to wait
/// for a commit.
#[cold]
fn not_allocated(
    allocator: &Allocator<PendingFree>,
    (worker_index, asked): (usize, (AllocationPlan, OwnerTag)),
    counters: &WorkerCounters,
    request: Request,
    status: Status,
) -> AllocationOutcome {
    let mut status = status;
    if status == Status::NoSpace && !allocator.has_deferred() {
        // Space that waited for a commit may have become free since: then it does not show as waiting.
        match attempt(allocator, worker_index, asked, &request) {
            Ok(values) => return complete(allocator, asked, counters, request, &values),
            Err(again) => status = again,
        }
    }
    unsuccessful(allocator, counters, request, status)
}

fn unsuccessful(
    allocator: &Allocator<PendingFree>,
    counters: &WorkerCounters,
    request: Request,
    status: Status,
) -> AllocationOutcome {
    match status {
        Status::NoSpace if allocator.has_deferred() => AllocationOutcome::NeedsFrees(request),
        Status::Busy => AllocationOutcome::NeedsTagRoom(request),
        status => {
            refuse(counters, request, status);
            AllocationOutcome::Completed
        }
    }
}

/// Finds space for blocks as the task asks, which are zeroed before [`hand_out`] tells anybody of them. `Err` says what
/// became of the task where there is none.
pub(crate) fn reserve(
    allocator: &Allocator<PendingFree>,
    worker_index: usize,
    counters: &WorkerCounters,
    request: Request,
) -> Result<NewBlocks, AllocationOutcome> {
    let (plan, owner) = asked_by(&request);
    let attempt = || {
        if plan.count > INLINE_BLOCKS as u64 {
            list_buffer(allocator, plan, &request)?;
        }
        allocator.reserve(plan, owner, worker_index)
    };
    let mut found = attempt();
    if matches!(found, Err(Status::NoSpace)) && !allocator.has_deferred() {
        // As for any other allocation.
        found = attempt();
    }
    match found {
        Ok(unborn) => Ok(NewBlocks { request, unborn }),
        Err(status) => Err(unsuccessful(allocator, counters, request, status)),
    }
}

/// Completes a task whose blocks were zeroed.
pub(crate) fn hand_out(
    allocator: &Allocator<PendingFree>,
    counters: &WorkerCounters,
    new: NewBlocks,
) -> AllocationOutcome {
    let NewBlocks { request, unborn } = new;
    let asked = asked_by(&request);
    let blocks = allocator.begin_lives(unborn);
    let mut values = [0; VALUE_COUNT];
    values[0] = asked.0.count;
    if blocks.len() <= INLINE_BLOCKS {
        for (words, block) in values[1..].chunks_exact_mut(2).zip(&blocks) {
            words.copy_from_slice(&block.to_words());
        }
    } else if let Some(buffer) = request.writable_buffer() {
        for (index, block) in blocks.iter().enumerate() {
            buffer.copy_from(index * BLOCK_WIRE_BYTES, &block.to_bytes());
        }
    }
    complete(allocator, asked, counters, request, &values)
}

/// Fails a task whose blocks could not be zeroed.
pub(crate) fn give_up(
    allocator: &Allocator<PendingFree>,
    counters: &WorkerCounters,
    new: NewBlocks,
    failure: Failure,
) -> AllocationOutcome {
    allocator.give_up(new.unborn);
    refuse(counters, new.request, failure);
    AllocationOutcome::Completed
}

/// What the task asks for.
#[inline(always)]
fn asked_by(request: &Request) -> (AllocationPlan, OwnerTag) {
    let [size, owner, _] = request.arguments();
    (AllocationPlan::for_size(size), OwnerTag(owner))
}

// Always inlined: the usual path stays in one piece, though this has a second caller.
#[inline(always)]
fn attempt(
    allocator: &Allocator<PendingFree>,
    worker_index: usize,
    asked: (AllocationPlan, OwnerTag),
    request: &Request,
) -> Result<[u64; VALUE_COUNT], Status> {
    if asked.0.count <= INLINE_BLOCKS as u64 {
        allocate_inline(allocator, worker_index, asked)
    } else {
        allocate_to_buffer(allocator, worker_index, asked, request)
    }
}

#[inline(always)]
fn allocate_inline(
    allocator: &Allocator<PendingFree>,
    worker_index: usize,
    (plan, owner): (AllocationPlan, OwnerTag),
) -> Result<[u64; VALUE_COUNT], Status> {
    let mut values = [0; VALUE_COUNT];
    values[0] = plan.count;
    let mut place = 1;
    if plan.count > 0 {
        allocator.allocate(plan, owner, worker_index, |block: Block| {
            values[place..place + 2].copy_from_slice(&block.to_words());
            place += 2;
        })?;
    }
    Ok(values)
}

fn allocate_to_buffer(
    allocator: &Allocator<PendingFree>,
    worker_index: usize,
    (plan, owner): (AllocationPlan, OwnerTag),
    request: &Request,
) -> Result<[u64; VALUE_COUNT], Status> {
    let buffer = list_buffer(allocator, plan, request)?;
    let mut offset = 0;
    allocator.allocate(plan, owner, worker_index, |block: Block| {
        buffer.copy_from(offset, &block.to_bytes());
        offset += BLOCK_WIRE_BYTES;
    })?;
    let mut values = [0; VALUE_COUNT];
    values[0] = plan.count;
    Ok(values)
}

/// The buffer for the list of an allocation's blocks, which it has room for.
fn list_buffer<'a>(
    allocator: &Allocator<PendingFree>,
    plan: AllocationPlan,
    request: &'a Request,
) -> Result<WritableBuffer<'a>, Status> {
    // First, because no buffer would help.
    if plan
        .total_bytes()
        .is_none_or(|bytes| bytes > allocator.total_bytes())
    {
        return Err(Status::NoSpace);
    }
    let buffer = request.writable_buffer().ok_or(Status::InvalidBuffer)?;
    if plan
        .list_bytes()
        .is_none_or(|bytes| bytes > buffer.len() as u64)
    {
        return Err(Status::InvalidBuffer);
    }
    Ok(buffer)
}

/// Frees the blocks that the task names. It completes when they are free.
pub(crate) fn free(
    allocator: &Allocator<PendingFree>,
    counters: &WorkerCounters,
    request: Request,
) {
    let [count, first, second] = request.arguments();
    let single;
    let list;
    let blocks: &[Block] = match count {
        0 => return request.complete(&[]),
        1 => match Block::from_words([first, second]) {
            Ok(block) => {
                single = [block];
                &single
            }
            Err(status) => return refuse(counters, request, status),
        },
        _ => match read_list(&request, count, allocator.total_bytes()) {
            Ok(blocks) => {
                list = blocks;
                &list
            }
            Err(status) => return refuse(counters, request, status),
        },
    };
    // Counted when they die, since the task may complete inside the call.
    let died = || counters.frees.add(count);
    if let Err((error, pending)) = allocator.free_and_tell(blocks, PendingFree::new(request), died)
    {
        counters.errors.add(1);
        let number = error.position as u64 + 1;
        pending.into_request().fail_with(error.status, &[number]);
    }
}

fn read_list(request: &Request, count: u64, total_size: u64) -> Result<Vec<Block>, Status> {
    let buffer = request.buffer().ok_or(Status::InvalidBuffer)?;
    let capacity = (buffer.len() / BLOCK_WIRE_BYTES) as u64;
    if count > capacity {
        return Err(Status::InvalidBuffer);
    }
    // More blocks than the pool can have: one of them must be named twice.
    if count > total_size / UNIT_BYTES {
        return Err(Status::DoubleFree);
    }
    let count = count as usize;
    let mut blocks = Vec::new();
    blocks
        .try_reserve_exact(count)
        .map_err(|_| Status::OutOfMemory)?;
    let mut chunk = [[0; BLOCK_WIRE_BYTES]; CHUNK_BLOCKS];
    while blocks.len() < count {
        let chunk = &mut chunk[..CHUNK_BLOCKS.min(count - blocks.len())];
        buffer.copy_to(blocks.len() * BLOCK_WIRE_BYTES, chunk.as_flattened_mut());
        for &bytes in &*chunk {
            blocks.push(Block::from_bytes(bytes)?);
        }
    }
    Ok(blocks)
}
