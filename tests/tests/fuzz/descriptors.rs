//! Tasks that are nearly right, or not at all.

use chimaera_bdev_proto::{
    Block, BlockType, Method, OwnerTag, TransferArguments, allocate_arguments, free_arguments,
};
use chimaera_proto::limits::DATA_OFFSET_BYTES;
use chimaera_proto::task::DESCRIPTOR_WORDS;
use chimaera_proto::{Access, BufferRange, ContainerId, Descriptor, PoolId, PoolQuery};
use chimaera_testing::FuzzInput;
use chimaera_testing::raw_client::SEGMENT_BYTES;

/// Words of a task for one of these pools, which may be about one of these blocks.
pub(crate) fn some_task(
    input: &mut FuzzInput<'_>,
    pools: &[PoolId],
    blocks: &[Block],
) -> [u64; DESCRIPTOR_WORDS] {
    if input.once_in(8) {
        return std::array::from_fn(|_| input.number_u64());
    }
    let method = match input.once_in(16) {
        true => input.number_u16(),
        false => input.below(10) as u16,
    };
    let task = Descriptor {
        method,
        pool: some_pool(input, pools),
        instance: match input.once_in(8) {
            true => input.number_u32() >> 8,
            false => 0,
        },
        query: some_query(input),
        record: match input.once_in(16) {
            true => input.byte(),
            false => input.below(64) as u8,
        },
        buffer: some_buffer(input),
        arguments: some_arguments(input, method, blocks),
    };
    let mut words = task.to_words(0);
    if input.once_in(16) {
        words[input.below(DESCRIPTOR_WORDS)] ^= 1 << input.below(64);
    }
    words
}

fn some_pool(input: &mut FuzzInput<'_>, pools: &[PoolId]) -> PoolId {
    match input.below(16) {
        15 => PoolId::new(input.edge_u64() as u32, input.edge_u64() as u32),
        14 => PoolId::ADMIN,
        // Another one's.
        13 => super::VICTIMS_POOL,
        number => pools[number % pools.len()],
    }
}

fn some_query(input: &mut FuzzInput<'_>) -> PoolQuery {
    match input.below(8) {
        6 => PoolQuery::Dynamic,
        7 => PoolQuery::DirectId(ContainerId(input.edge_u64() as u32)),
        _ => PoolQuery::Local,
    }
}

pub(crate) fn some_buffer(input: &mut FuzzInput<'_>) -> Option<BufferRange> {
    let access = input.one_of(&[Access::ReadWrite, Access::ReadOnly]);
    let buffer = |segment, offset_bytes, len_bytes| {
        Some(BufferRange {
            segment,
            offset_bytes,
            len_bytes,
            access,
        })
    };
    let sizes = [4096, 1, 0, 16, 512, 4095, 65536, 1 << 20];
    match input.below(8) {
        0 => None,
        5 => buffer(0, SEGMENT_BYTES - input.edge_u64() % 8192, 4096),
        6 => buffer(input.byte(), input.edge_u64(), input.edge_u64() as u32),
        7 => buffer(0, DATA_OFFSET_BYTES as u64 + input.edge_u64() % 4096, 4096),
        _ => buffer(0, super::DATA.offset_bytes, input.one_of(&sizes)),
    }
}

fn some_arguments(input: &mut FuzzInput<'_>, method: u16, blocks: &[Block]) -> [u64; 3] {
    if input.once_in(6) {
        return std::array::from_fn(|_| input.edge_u64());
    }
    match Method::from_number(method) {
        Some(Method::AllocateBlocks) => {
            let sizes = [4096, 1, 12288, 65536, 100_000, 1 << 20, 5 << 20];
            allocate_arguments(input.one_of(&sizes), OwnerTag(input.edge_u64()))
        }
        Some(Method::FreeBlocks) => {
            let count = input.one_of(&[1, 1, 1, 0, 2, 5, 256]);
            let block = some_block(input, blocks);
            free_arguments(count, (count == 1).then_some(block))
        }
        Some(Method::Read | Method::Write) => TransferArguments {
            block: some_block(input, blocks),
            offset_in_block: match input.once_in(3) {
                true => input.edge_u64(),
                false => 0,
            },
        }
        .to_arguments(),
        _ => [input.edge_u64(), input.edge_u64() % 64, 0],
    }
}

fn some_block(input: &mut FuzzInput<'_>, blocks: &[Block]) -> Block {
    let block_type = input.one_of(&BlockType::ALL);
    if blocks.is_empty() || input.once_in(4) {
        return Block::new(input.edge_u64(), block_type);
    }
    let mut block = blocks[input.below(blocks.len())];
    if input.once_in(8) {
        block = Block::new(block.offset, block_type);
    }
    block
}
