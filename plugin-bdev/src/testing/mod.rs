//! A host for tests: it makes pools through the module's real table, drives their workers, and
//! keeps what they complete and log.

mod buffer;
mod device;
mod host;
mod listing;
mod places;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use chimaera_bdev_proto::{
    AllocationPlan, Block, CreateParams, INLINE_BLOCKS, Method, OwnerTag, STATS_BUFFER_BYTES,
    Stats, TransferArguments, allocate_arguments, free_arguments,
};
use chimaera_chimod::abi::Activity;
use chimaera_chimod::host::{ContainerHandle, NewPool};
use chimaera_chimod::{AllowedPaths, CreateAgain, Creator, ModuleError};
use chimaera_proto::task::ARGUMENT_COUNT;
use chimaera_proto::{Failure, Permissions, PoolId, Status, codec};
use chimaera_testing::PATIENCE;

pub(crate) use buffer::TestBuffer;
pub(crate) use device::loop_device;
use host::TaskOutcome;
pub(crate) use host::{Recorder, loose_request, raw_task, table_of};
pub(crate) use places::{
    file_bytes, file_params, memory_folder, metadata_bytes_beside, name_in, one_block_bytes,
    ram_params, whole_megabytes,
};

/// The id of the pools that are made.
pub(crate) const POOL: PoolId = PoolId::new(8000, 0);

/// The user that makes the pools, unless a test says otherwise.
pub(crate) const ROOT: Creator = Creator {
    uid: 0,
    gid: 0,
    is_operator: true,
};

/// Somebody else, who is no operator.
pub(crate) const USER: Creator = Creator {
    uid: 1000,
    gid: 1000,
    is_operator: false,
};

/// A pool, driven by its test. Calls for one worker must not meet on two threads.
pub(crate) struct TestPool {
    handle: ContainerHandle,
    recorder: Arc<Recorder>,
    workers: u32,
    next_task: std::sync::atomic::AtomicU64,
    /// Who had it made or opened.
    creator: Creator,
}

impl TestPool {
    pub(crate) fn create(
        name: &str,
        params: &CreateParams,
        workers: u32,
    ) -> Result<Self, ModuleError> {
        Self::create_recorded(name, params, workers, Arc::new(Recorder::default()))
    }

    pub(crate) fn create_recorded(
        name: &str,
        params: &CreateParams,
        workers: u32,
        recorder: Arc<Recorder>,
    ) -> Result<Self, ModuleError> {
        Self::create_as((POOL, false), name, params, (workers, recorder))
    }

    /// With this id, which nobody asked for if the second value is set.
    pub(crate) fn create_as(
        id: (PoolId, bool),
        name: &str,
        params: &CreateParams,
        recorded: (u32, Arc<Recorder>),
    ) -> Result<Self, ModuleError> {
        Self::create_by(ROOT, id, name, params, recorded)
    }

    /// As [`Self::create_as`], as this user.
    pub(crate) fn create_by(
        creator: Creator,
        id: (PoolId, bool),
        name: &str,
        params: &CreateParams,
        recorded: (u32, Arc<Recorder>),
    ) -> Result<Self, ModuleError> {
        Self::create_on((creator, None), id, name, params, recorded)
    }

    /// As [`Self::create_by`], on a file that the user has passed, if there is one.
    pub(crate) fn create_on(
        (creator, file): (Creator, Option<BorrowedFd<'_>>),
        id: (PoolId, bool),
        name: &str,
        params: &CreateParams,
        recorded: (u32, Arc<Recorder>),
    ) -> Result<Self, ModuleError> {
        let permissions = Permissions::of_owner(creator.uid, creator.gid);
        Self::create_new((creator, permissions, file), id, name, params, recorded)
    }

    /// As [`Self::create_as`], by this user, for whom the permissions say.
    pub(crate) fn create_with(
        (creator, permissions): (Creator, Permissions),
        id: (PoolId, bool),
        name: &str,
        params: &CreateParams,
    ) -> Result<Self, ModuleError> {
        let recorded = (1, Arc::new(Recorder::default()));
        Self::create_new((creator, permissions, None), id, name, params, recorded)
    }

    fn create_new(
        (creator, permissions, file): (Creator, Permissions, Option<BorrowedFd<'_>>),
        (id, id_is_chosen): (PoolId, bool),
        name: &str,
        params: &CreateParams,
        (workers, recorder): (u32, Arc<Recorder>),
    ) -> Result<Self, ModuleError> {
        let params = codec::encode(params).expect("encodes");
        let table = Arc::new(table_of(&recorder));
        let pool = NewPool {
            id,
            id_is_chosen,
            name,
            params: &params,
            creator,
            permissions,
            worker_count: workers,
            speaker: 0,
            file,
            allowed: AllowedPaths::Any,
        };
        let handle = crate::module().create(table, &pool)?;
        Ok(Self {
            handle,
            recorder,
            workers,
            next_task: 0.into(),
            creator,
        })
    }

    /// Asks for the pool again, with these parameters.
    pub(crate) fn ask_again(&self, params: &CreateParams) -> Result<(), ModuleError> {
        self.ask_again_by(ROOT, params)
    }

    /// As [`Self::ask_again`], as this user.
    pub(crate) fn ask_again_by(
        &self,
        creator: Creator,
        params: &CreateParams,
    ) -> Result<(), ModuleError> {
        let params = &codec::encode(params).expect("encodes");
        let recorded = self.handle.permissions().expect("it says");
        let owner = recorded.map_or(self.creator.uid, |permissions| permissions.owner);
        self.handle.create_again(CreateAgain {
            creator,
            may_manage: creator.is_operator || creator.uid == owner,
            params,
        })
    }

    pub(crate) fn handle(&self) -> &ContainerHandle {
        &self.handle
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The recorder, for what completes when the pool is dropped.
    pub(crate) fn recorder_handle(&self) -> Arc<Recorder> {
        Arc::clone(&self.recorder)
    }

    /// Hands a task over. The buffer must be kept until it completes.
    pub(crate) fn submit_to(
        &self,
        worker: u32,
        method: u16,
        arguments: [u64; ARGUMENT_COUNT],
        buffer: Option<&mut TestBuffer>,
    ) -> (u64, Activity) {
        let task = self
            .next_task
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Leaked: it has to stay until it completes, which may be when the test is over.
        let raw = Box::leak(Box::new(raw_task(task, method, arguments, buffer)));
        // SAFETY: the test calls for one worker from one thread at a time, keeps the buffer
        // until the task completes, and this pool until all have.
        let activity = unsafe { self.handle.submit(worker, raw.into()) };
        (task, activity)
    }

    pub(crate) fn poll(&self, worker: u32) -> Activity {
        // SAFETY: the test calls for one worker from one thread at a time.
        unsafe { self.handle.poll(worker) }
    }

    pub(crate) fn take(&self, task: u64) -> Option<TaskOutcome> {
        self.recorder.take(task)
    }

    /// Drives these workers until the task has completed.
    pub(crate) fn wait_on(&self, workers: impl Fn() -> Vec<u32>, task: u64) -> TaskOutcome {
        let start = Instant::now();
        loop {
            if let Some(outcome) = self.take(task) {
                return outcome;
            }
            assert!(start.elapsed() < PATIENCE, "task {task} does not complete");
            for worker in workers() {
                let _ = self.poll(worker);
            }
            std::thread::yield_now();
        }
    }

    /// Drives all workers until the task has completed.
    pub(crate) fn wait(&self, task: u64) -> TaskOutcome {
        self.wait_on(|| (0..self.workers).collect(), task)
    }

    /// Runs a task on the first worker, and drives all workers until it has completed.
    pub(crate) fn run(
        &self,
        method: Method,
        arguments: [u64; ARGUMENT_COUNT],
        buffer: Option<&mut TestBuffer>,
    ) -> TaskOutcome {
        let (task, _) = self.submit_to(0, method as u16, arguments, buffer);
        self.wait(task)
    }

    pub(crate) fn allocate(&self, size: u64) -> Result<Vec<Block>, Status> {
        self.allocate_for(size, OwnerTag::NONE)
    }

    /// As [`Self::allocate`], with an owner's tag.
    pub(crate) fn allocate_for(&self, size: u64, owner: OwnerTag) -> Result<Vec<Block>, Status> {
        let plan = AllocationPlan::for_size(size);
        let mut list = (plan.count > INLINE_BLOCKS as u64).then(|| {
            TestBuffer::new(
                plan.list_bytes().map_or(0, |len| len.min(1 << 20)) as usize,
                0,
            )
        });
        let values = self
            .run(
                Method::AllocateBlocks,
                allocate_arguments(size, owner),
                list.as_mut(),
            )
            .map_err(|failure| failure.status)?;
        let block = |words: [u64; 2]| Block::from_words(words).expect("the pool's own");
        Ok(match list {
            Some(list) => list
                .bytes()
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| Block::from_bytes(bytes).expect("the pool's own"))
                .collect(),
            None => (0..values[0] as usize)
                .map(|at| block([values[1 + 2 * at], values[2 + 2 * at]]))
                .collect(),
        })
    }

    pub(crate) fn free(&self, blocks: &[Block]) -> Result<(), Status> {
        let single = (blocks.len() == 1).then(|| blocks[0]);
        let bytes: Vec<u8> = blocks.iter().flat_map(|block| block.to_bytes()).collect();
        let mut list = (blocks.len() > 1).then(|| TestBuffer::of(&bytes, 0));
        let arguments = free_arguments(blocks.len() as u64, single);
        self.run(Method::FreeBlocks, arguments, list.as_mut())
            .map(|_| ())
            .map_err(|failure| failure.status)
    }

    /// Starts a read or write on a worker.
    pub(crate) fn start(
        &self,
        worker: u32,
        method: Method,
        block: Block,
        offset_in_block: u64,
        buffer: &mut TestBuffer,
    ) -> u64 {
        let arguments = TransferArguments {
            block,
            offset_in_block,
        }
        .to_arguments();
        self.submit_to(worker, method as u16, arguments, Some(buffer))
            .0
    }

    pub(crate) fn write(&self, block: Block, offset: u64, bytes: &[u8]) -> Result<u64, Failure> {
        let mut buffer = TestBuffer::of(bytes, 0);
        let task = self.start(0, Method::Write, block, offset, &mut buffer);
        self.wait(task).map(|values| values[0])
    }

    pub(crate) fn read(&self, block: Block, offset: u64, len: usize) -> Result<Vec<u8>, Failure> {
        let mut buffer = TestBuffer::new(len, 0);
        let task = self.start(0, Method::Read, block, offset, &mut buffer);
        let values = self.wait(task)?;
        assert_eq!(values[0], len as u64);
        Ok(buffer.bytes().to_vec())
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut buffer = TestBuffer::new(STATS_BUFFER_BYTES as usize, 0);
        let values = self
            .run(Method::GetStats, [0; 3], Some(&mut buffer))
            .expect("statistics");
        codec::decode(&buffer.bytes()[..values[0] as usize]).expect("decodes")
    }
}
