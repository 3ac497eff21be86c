//! The bdev module and an admin module for the fake host: enough of both for the client's sake, in memory, with blocks
//! handed out one after another.

use std::collections::BTreeMap;

use crate::fake_host::{FakeModule, HostBuffer, Verdict, parse, reply};
use crate::sizes::MIB;
use chimaera_bdev_proto::{
    AllocationPlan, BLOCK_WIRE_BYTES, BdevType, Block, CreateParams, INLINE_BLOCKS, ListedTag,
    MAP_END, MEGABYTE, MIN_LISTING_BUFFER_BYTES, MegabyteState, Method, OperationCounts,
    OwnedBlock, OwnerTag, PerfMetrics, ScrubPolicy, Stats, TransferArguments,
};
use chimaera_proto::admin::{
    self, AttachPool, DestroyPool, FindPool, GetOrCreatePool, ListPools, PoolChoice, PoolList,
    PoolName,
};
use chimaera_proto::{Descriptor, Permissions, PoolId, Rights, Status, codec};

/// Megabytes on one page of a list or map.
const PAGE_MEGABYTES: u64 = 3;

/// Pools on one page of a list.
const PAGE_POOLS: usize = 3;

/// Blocks that are allocated with this tag are listed as if what the device has of their tags were damaged.
pub const LOST_TAG: OwnerTag = OwnerTag(0x1057);

/// A module that begins without pools, and makes and destroys them as it is asked.
#[must_use]
pub fn fake_bdev() -> impl FakeModule {
    let mut pools = FakePools {
        pools: BTreeMap::new(),
        incarnations: 0,
    };
    move |task: Descriptor, buffer: Option<HostBuffer>| {
        if task.pool == PoolId::ADMIN {
            pools.administer(task, buffer)
        } else {
            match pools.pools.get_mut(&task.pool) {
                Some(pool) => pool
                    .serve(task, buffer)
                    .map_or_else(Verdict::fail, |values| Verdict::ok(&values)),
                None => Verdict::fail(Status::PoolNotFound),
            }
        }
    }
}

struct FakePools {
    pools: BTreeMap<PoolId, FakePool>,
    /// How many pools were made so far.
    incarnations: u64,
}

struct FakePool {
    name: String,
    incarnation: u64,
    module: String,
    params: Vec<u8>,
    bytes: Vec<u8>,
    allocated: BTreeMap<u64, OwnedBlock>,
    read_only: bool,
    next: u64,
    size: u64,
    metrics: PerfMetrics,
}

impl FakePools {
    fn administer(&mut self, task: Descriptor, buffer: Option<HostBuffer>) -> Verdict {
        let method = admin::Method::from_number(task.method);
        let Some(buffer) = buffer else {
            assert_eq!(method, Some(admin::Method::Ping));
            return Verdict::ok(&[]);
        };
        let request = buffer.read();
        let request = &request[..task.arguments[0] as usize];
        match method {
            Some(admin::Method::GetOrCreatePool) => {
                reply(&buffer, self.get_or_create(parse(request)))
            }
            Some(admin::Method::DestroyPool) => {
                let DestroyPool { pool } = parse(request);
                let found = self.find(&pool);
                reply(&buffer, found.map(|id| drop(self.pools.remove(&id))))
            }
            Some(admin::Method::ListPools) => {
                let ListPools { after } = parse(request);
                let after = after.map_or(PoolId::NULL, |after| after.id);
                let mut ids = self.pools.keys().filter(|&&id| id > after);
                let pools = ids
                    .by_ref()
                    .take(PAGE_POOLS)
                    .map(|&id| self.info(id, false))
                    .collect();
                let more = ids.next().is_some();
                reply(&buffer, Ok(PoolList { pools, more }))
            }
            Some(admin::Method::FindPool) => {
                let FindPool { pool } = parse(request);
                reply(&buffer, self.find(&pool).map(|id| self.info(id, false)))
            }
            Some(admin::Method::AttachPool) => {
                let AttachPool { pool, module, .. } = parse(request);
                let found = self.find(&pool).map(|id| self.info(id, false));
                let attached = found.and_then(|info| match info.module == module {
                    true => Ok(info),
                    false => Err((
                        Status::WrongModule,
                        format!("it is a pool of {}", info.module),
                    )),
                });
                reply(&buffer, attached)
            }
            Some(admin::Method::FlushPools) => reply(&buffer, Ok(())),
            _ => Verdict::fail(Status::Unsupported),
        }
    }

    fn find(&self, choice: &PoolChoice) -> Result<PoolId, (Status, String)> {
        let found = match &choice.pool {
            PoolName::Id(id) => self.pools.get_key_value(id),
            PoolName::Name(name) => self.pools.iter().find(|(_, pool)| pool.name == *name),
        };
        let missing = || {
            (
                Status::PoolNotFound,
                format!("there is no pool {:?}", choice.pool),
            )
        };
        found.map(|(&id, _)| id).ok_or_else(missing)
    }

    fn info(&self, id: PoolId, created: bool) -> admin::PoolInfo {
        let pool = &self.pools[&id];
        admin::PoolInfo {
            id,
            name: pool.name.clone(),
            module: pool.module.clone(),
            created,
            opened: false,
            incarnation: pool.incarnation,
            predecessor: None,
            instance: 1,
            permissions: Permissions::of_owner(0, 0),
            rights: Rights::ALL,
        }
    }

    fn get_or_create(
        &mut self,
        request: GetOrCreatePool,
    ) -> Result<admin::PoolInfo, (Status, String)> {
        let id = if request.id.is_null() {
            let named = self
                .pools
                .iter()
                .find(|(_, pool)| pool.name == request.name);
            let new = PoolId::new(PoolId::FIRST_CHOSEN_MAJOR, self.pools.len() as u32);
            named.map_or(new, |(&id, _)| id)
        } else {
            request.id
        };
        if let Some(pool) = self.pools.get(&id) {
            if pool.params != request.params {
                let text = format!("pool {id} has other parameters: use those, or another id");
                return Err((Status::ParameterMismatch, text));
            }
            return Ok(self.info(id, false));
        }
        let params: CreateParams = parse(&request.params);
        let size = params.total_size.max(4 * MIB);
        let pool = FakePool {
            name: request.name,
            module: request.module,
            params: request.params,
            bytes: vec![0; size as usize],
            incarnation: {
                self.incarnations += 1;
                self.incarnations
            },
            allocated: BTreeMap::new(),
            read_only: params.read_only,
            next: 0,
            size,
            metrics: params.perf_metrics.unwrap_or_default(),
        };
        self.pools.insert(id, pool);
        Ok(self.info(id, true))
    }
}

impl FakePool {
    fn serve(&mut self, task: Descriptor, buffer: Option<HostBuffer>) -> Result<Vec<u64>, Status> {
        let method = Method::from_number(task.method).ok_or(Status::UnknownMethod)?;
        let changes = matches!(
            method,
            Method::AllocateBlocks | Method::FreeBlocks | Method::Write
        );
        if self.read_only && changes {
            return Err(Status::ReadOnly);
        }
        match method {
            Method::AllocateBlocks => {
                let [size, owner, _] = task.arguments;
                self.allocate(size, OwnerTag(owner), buffer)
            }
            Method::Flush => {
                assert_eq!((task.arguments, buffer.is_none()), ([0; 3], true));
                Ok(Vec::new())
            }
            Method::ListBlocks => Ok(self.list(task.arguments[0], buffer)),
            Method::GetMap => Ok(self.map(task.arguments[0], buffer)),
            Method::FreeBlocks => self.free(task, buffer),
            method @ (Method::Write | Method::Read) => {
                let buffer = buffer.expect("transfers have buffers");
                let transfer = TransferArguments::parse(task.arguments, buffer.len() as u32)?;
                let block = transfer.block;
                if !self.is_allocated(block) {
                    return Err(Status::NotAllocated);
                }
                let start = (block.offset + transfer.offset_in_block) as usize;
                let range = start..start + buffer.len();
                if method == Method::Write {
                    self.bytes[range].copy_from_slice(&buffer.read());
                } else {
                    buffer.write(&self.bytes[range]);
                }
                Ok(vec![buffer.len() as u64])
            }
            Method::GetStats => {
                let buffer = buffer.expect("statistics have a buffer");
                let used: u64 = self.allocated.values().map(|owned| owned.block.size).sum();
                let stats = Stats {
                    metadata_size: 0,
                    allocated_blocks: self.allocated.len() as u64,
                    has_unknown_blocks: false,
                    persistent: false,
                    read_only: self.read_only,
                    metrics: self.metrics,
                    remaining_size: self.size - used,
                    total_size: self.size,
                    bdev_type: BdevType::Ram,
                    scrub: ScrubPolicy::None,
                    direct_io: false,
                    io_depth: 32,
                    alignment: 4096,
                    io_engine: None,
                    file: None,
                    activity: OperationCounts::default(),
                };
                let bytes = codec::encode(&stats).expect("encodes");
                buffer.write(&bytes);
                Ok(vec![bytes.len() as u64])
            }
        }
    }

    fn is_allocated(&self, block: Block) -> bool {
        let known = self.allocated.get(&block.offset);
        known.is_some_and(|owned| owned.block == block)
    }

    fn list(&self, first: u64, buffer: Option<HostBuffer>) -> Vec<u64> {
        let buffer = buffer.expect("a list has a buffer");
        assert!(buffer.len() >= MIN_LISTING_BUFFER_BYTES);
        let next = first + PAGE_MEGABYTES;
        let blocks = self
            .allocated
            .range(first * MEGABYTE..next * MEGABYTE)
            .map(|(_, owned)| owned.to_bytes());
        let bytes: Vec<[u8; _]> = blocks.collect();
        buffer.write(bytes.as_flattened());
        vec![bytes.len() as u64, self.page_after(next)]
    }

    fn map(&self, first: u64, buffer: Option<HostBuffer>) -> Vec<u64> {
        let buffer = buffer.expect("a map has a buffer");
        let next = (first + PAGE_MEGABYTES).min(self.size.div_ceil(MEGABYTE));
        let states: Vec<u8> = (first..next)
            .map(|megabyte| {
                let range = megabyte * MEGABYTE..(megabyte + 1) * MEGABYTE;
                let blocks = self.allocated.range(range);
                match blocks.map(|(_, owned)| owned.block.size).sum() {
                    0 => MegabyteState::Free as u8,
                    MEGABYTE => MegabyteState::Used as u8,
                    _ => MegabyteState::Split as u8,
                }
            })
            .collect();
        buffer.write(&states);
        vec![states.len() as u64, self.page_after(next)]
    }

    fn page_after(&self, next: u64) -> u64 {
        if next * MEGABYTE < self.size {
            next
        } else {
            MAP_END
        }
    }

    fn allocate(
        &mut self,
        size: u64,
        owner: OwnerTag,
        buffer: Option<HostBuffer>,
    ) -> Result<Vec<u64>, Status> {
        let plan = AllocationPlan::for_size(size);
        let start = self.next.next_multiple_of(plan.block_type.size());
        let end = plan
            .total_bytes()
            .and_then(|bytes| bytes.checked_add(start));
        if end.is_none_or(|end| end > self.size) {
            return Err(Status::NoSpace);
        }
        let blocks: Vec<Block> = (0..plan.count)
            .map(|n| Block::new(start + n * plan.block_type.size(), plan.block_type))
            .collect();
        self.next = start + plan.count * plan.block_type.size();
        let listed = match owner {
            LOST_TAG => ListedTag::Unknown,
            tag => tag.into(),
        };
        self.allocated.extend(blocks.iter().map(|&block| {
            (
                block.offset,
                OwnedBlock {
                    block,
                    owner: listed,
                },
            )
        }));
        let mut values = vec![plan.count];
        if blocks.len() <= INLINE_BLOCKS {
            assert!(buffer.is_none(), "few blocks need no list");
            values.extend(blocks.iter().flat_map(|block| block.to_words()));
        } else {
            let list: Vec<u8> = blocks.iter().flat_map(|block| block.to_bytes()).collect();
            let buffer = buffer.expect("many blocks need a list");
            assert_eq!(buffer.len(), list.len(), "the list fits exactly");
            buffer.write(&list);
        }
        Ok(values)
    }

    fn free(&mut self, task: Descriptor, buffer: Option<HostBuffer>) -> Result<Vec<u64>, Status> {
        let [count, a, b] = task.arguments;
        let blocks: Vec<Block> = match buffer {
            None if count == 1 => vec![Block::from_words([a, b])?],
            None => Vec::new(),
            Some(buffer) => buffer
                .read()
                .as_chunks::<BLOCK_WIRE_BYTES>()
                .0
                .iter()
                .map(|&bytes| Block::from_bytes(bytes))
                .collect::<Result<_, _>>()?,
        };
        assert_eq!(blocks.len() as u64, count);
        for block in blocks {
            match self.allocated.get(&block.offset) {
                Some(known) if known.block == block => self.allocated.remove(&block.offset),
                Some(_) => return Err(Status::WrongSize),
                None => return Err(Status::DoubleFree),
            };
        }
        Ok(Vec::new())
    }
}
