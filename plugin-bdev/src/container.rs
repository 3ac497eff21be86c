//! The container of a bdev pool: where its tasks arrive, and where they end.
//!
//! Laws:
//! - A transfer's block is pinned from before its first byte moves until after its last. While
//!   it is, a free of the block does not complete, so what was accepted before a free never
//!   lands in the block's next life. A panic in between gives the pin back as well.
//! - At the end comes first the unpinning, then the counting, then the completion: a client that
//!   frees a block because it saw its write complete finds the block without pins, and its
//!   operation in the statistics.

#![forbid(unsafe_code)]

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use chimaera_bdev_proto::{
    BdevType, Method, STATS_BUFFER_BYTES, Stats, TransferArguments, UNIT_BYTES,
};
use chimaera_chimod::{
    Activity, Container, CreateAgain, CreateContext, Level, ModuleError, Request, Worker,
};
use chimaera_proto::task::ARGUMENT_COUNT;
use chimaera_proto::{Failure, PoolId, Status, codec};

use crate::backend::file::FileDevice;
use crate::backend::ram::RamDevice;
use crate::backend::transfer::{Direction, Transfer};
use crate::declared::Declared;
use crate::params::{Parameters, Usage};
use crate::pool::allocator::allocator_of;
use crate::pool::counters::Counters;
use crate::pool::memory;
use crate::pool::persistence;
use crate::pool::state::PoolState;
use crate::tasks::allocation;
use crate::tasks::keeper::{Keeper, Work};
use crate::tasks::listing;
use chimaera_bdev_allocator::ledger;
use chimaera_bdev_format::block_map::UNITS;

/// A pool of blocks on memory, a file or a block device.
pub struct BdevContainer {
    // First, and so dropped first: it commits, on a file that is still the pool's alone.
    keeper: Option<Keeper>,
    // Before the allocator, and so dropped before it: what is under way has pinned blocks.
    backend: Backend,
    state: Arc<PoolState>,
    /// With the pool's real size.
    parameters: Parameters,
    /// How the device is really used.
    usage: Usage,
    /// The id that the pool has on its device.
    own_id: Option<PoolId>,
    /// Whether the device held the pool already.
    was_opened: bool,
    /// Units that metadata takes, and their bytes together.
    reserved: Vec<Range<u64>>,
    metadata_size: u64,
}

enum Backend {
    Ram(RamDevice),
    File(Box<FileDevice>),
}

impl Container for BdevContainer {
    fn create(context: CreateContext<'_>) -> Result<Self, ModuleError> {
        let parameters = Parameters::decode(context.params)?;
        match parameters.bdev_type {
            BdevType::Ram => Self::create_in_memory(&context, parameters),
            BdevType::File => Self::create_on_file(&context, parameters),
        }
    }

    fn pool_id(&self) -> Option<PoolId> {
        self.own_id
    }

    fn was_opened(&self) -> bool {
        self.was_opened
    }

    fn create_again(&self, again: CreateAgain<'_>) -> Result<(), ModuleError> {
        let mut asked = Parameters::decode(again.params)?;
        let whole = match &self.backend {
            Backend::Ram(_) => self.parameters.total_size,
            Backend::File(device) => {
                device.place().check()?;
                // A pool may have a little less than its file, where a rest has no room for metadata.
                let own_size = |size| match size == device.total_size() {
                    true => self.parameters.total_size,
                    false => size,
                };
                asked.total_size = own_size(asked.total_size);
                own_size(device.whole_size()?)
            }
        };
        self.parameters.check_same(&self.usage, &asked, whole)?;
        let declared = &self.state.declared;
        match (declared.change(asked.metrics, again.creator)?, &self.keeper) {
            (None, _) => Ok(()),
            (Some(metrics), None) => {
                declared.set(metrics);
                Ok(())
            }
            (Some(metrics), Some(keeper)) => {
                let declared = keeper.declare(metrics);
                declared.map_err(|failure| ModuleError {
                    failure,
                    message: format!("cannot record other perf_metrics in the pool: {failure}"),
                })
            }
        }
    }

    fn submit(&self, worker: &mut Worker<'_>, request: Request) -> Activity {
        match Method::from_number(request.method()) {
            Some(Method::Write) => return self.transfer(worker, request, Direction::Write),
            Some(Method::Read) => return self.transfer(worker, request, Direction::Read),
            Some(Method::AllocateBlocks) if !self.parameters.read_only => {
                self.allocate(worker, request);
            }
            Some(Method::FreeBlocks) if !self.parameters.read_only => {
                let counters = self.state.counters.of(worker.index());
                allocation::free(&self.state.allocator, counters, request);
            }
            method => self.answer(worker, request, method),
        }
        Activity::IDLE
    }

    const PREFETCHES: bool = true;

    fn prefetch(&self, method: u16, arguments: &[u64; ARGUMENT_COUNT]) {
        let is_read = method == Method::Read as u16;
        if is_read || method == Method::Write as u16 {
            let start = TransferArguments::probable_start(arguments);
            self.state.allocator.prefetch(start);
            if is_read && let Backend::Ram(device) = &self.backend {
                device.prefetch(start);
            }
        }
    }

    fn poll(&self, worker: &mut Worker<'_>) -> Activity {
        let worker_index = worker.index();
        match &self.backend {
            Backend::Ram(_) => Activity::IDLE,
            Backend::File(device) => device.poll(worker, |transfer, pin, result| {
                self.state.allocator.unpin(pin);
                self.finish(worker_index, transfer, result);
            }),
        }
    }

    fn wake_fd(&self, worker_index: usize) -> Option<BorrowedFd<'_>> {
        match &self.backend {
            Backend::Ram(_) => None,
            Backend::File(device) => device.wake_fd(worker_index),
        }
    }

    fn flush(&self) -> Result<(), ModuleError> {
        let Some(keeper) = &self.keeper else {
            return Ok(());
        };
        keeper.flush().map_err(|failure| match &self.backend {
            Backend::File(device) => device.place().explain(failure),
            Backend::Ram(_) => ModuleError::new(failure.status, failure.to_string()),
        })
    }
}

/// Memory is taken as it is written, so such a pool can be made, and used as long as little of it is.
fn warn_if_too_large(context: &CreateContext<'_>, total_size: u64) {
    let Some(available) = memory::available_bytes().filter(|&available| available < total_size)
    else {
        return;
    };
    context.host.log(
        Level::Warning,
        format_args!(
            "the pool has {total_size} bytes, more than the {available} bytes of memory that the runtime can have: when \
             so many are written, the kernel kills the runtime, and every pool in memory is lost; give a smaller \
             size"
        ),
    );
}

impl BdevContainer {
    fn create_in_memory(
        context: &CreateContext<'_>,
        parameters: Parameters,
    ) -> Result<Self, ModuleError> {
        let device = RamDevice::new(parameters.total_size)?;
        let allocator = allocator_of(parameters.total_size, context.worker_count, false)?;
        warn_if_too_large(context, parameters.total_size);
        Ok(Self {
            keeper: None,
            backend: Backend::Ram(device),
            state: Arc::new(PoolState {
                allocator,
                counters: Counters::new(context.worker_count, 0),
                declared: Declared::new(
                    context.creator.uid,
                    parameters.metrics.unwrap_or_default(),
                ),
            }),
            usage: parameters.usage.or(Usage::default()),
            parameters,
            own_id: None,
            was_opened: false,
            reserved: Vec::new(),
            metadata_size: 0,
        })
    }

    fn create_on_file(
        context: &CreateContext<'_>,
        parameters: Parameters,
    ) -> Result<Self, ModuleError> {
        let (device, undo) = FileDevice::new(context, &parameters)?;
        let persistence::PersistentPool {
            allocator,
            ledger,
            block_count,
            was_opened,
        } = persistence::open_or_format(context, &parameters, &device)?;
        let own_id = persistence::pool_id(&ledger);
        let geometry = ledger.metadata().geometry();
        let reserved = geometry.reserved().collect();
        let metadata_size = geometry.reserved_pages() * UNIT_BYTES;
        let identity = &ledger.metadata().superblock().identity;
        // Those that were asked for are recorded, unless the pool is only read.
        let metrics = parameters.metrics.unwrap_or(identity.metrics);
        let declared = Declared::new(identity.owner.user, metrics);
        let parameters = Parameters {
            total_size: allocator.total_bytes(),
            overwrite: false,
            ..parameters
        };
        let state = Arc::new(PoolState {
            allocator,
            counters: Counters::new(context.worker_count, block_count),
            declared,
        });
        let keeper = Keeper::start(
            ledger,
            Arc::clone(&state),
            Arc::clone(device.place()),
            context.host,
            parameters.read_only,
        );
        let keeper = keeper.map_err(|error| {
            let text = format!("cannot keep the pool: {error}");
            ModuleError::new(Status::OutOfResources, text)
        })?;
        // Nothing can fail any more.
        undo.keep();
        Ok(Self {
            keeper: Some(keeper),
            usage: device.usage(),
            backend: Backend::File(Box::new(device)),
            state,
            parameters,
            own_id: Some(own_id),
            was_opened,
            reserved,
            metadata_size,
        })
    }

    fn allocate(&self, worker: &Worker<'_>, request: Request) {
        let (worker_index, allocator) = (worker.index(), &self.state.allocator);
        let counters = self.state.counters.of(worker_index);
        if let Some(request) = allocation::allocate(allocator, worker_index, counters, request) {
            self.leave(worker, request, Work::Allocate);
        }
    }

    /// Tasks that are rare, and those that are refused. Apart from the others, which are shorter so.
    #[cold]
    fn answer(&self, worker: &Worker<'_>, request: Request, method: Option<Method>) {
        match method {
            Some(Method::GetStats) => self.get_stats(worker, request),
            Some(Method::Flush) => self.leave(worker, request, Work::Flush),
            Some(Method::ListBlocks) => self.leave(worker, request, Work::List),
            Some(Method::GetMap) => {
                let allocator = &self.state.allocator;
                let counters = self.state.counters.of(worker.index());
                let state = |index| allocator.state(index, self.has_metadata(index));
                listing::answer_map(counters, request, allocator.megabyte_count(), state);
            }
            Some(_) => self.refuse(worker, request, Status::ReadOnly),
            None => self.refuse(worker, request, Status::UnknownMethod),
        }
    }

    /// Leaves a task to the keeper. A pool in memory has none, and nothing that would take long.
    #[cold]
    fn leave(&self, worker: &Worker<'_>, request: Request, work: fn(Request) -> Work) {
        if let Some(keeper) = &self.keeper {
            return keeper.push(work(request));
        }
        match Method::from_number(request.method()) {
            Some(Method::ListBlocks) => {
                let PoolState {
                    allocator,
                    counters,
                    ..
                } = &*self.state;
                let nothing_committed = |_: &[u64]| Ok(Vec::new());
                let list = |first, most| ledger::list(allocator, first, most, nothing_committed);
                listing::answer_list(counters.of(worker.index()), request, list);
            }
            Some(Method::Flush) => request.complete(&[]),
            _ => self.refuse(worker, request, Status::NoSpace),
        }
    }

    fn has_metadata(&self, megabyte: usize) -> bool {
        let first = megabyte as u64 * UNITS;
        let mut reserved = self.reserved.iter();
        reserved.any(|units| units.start < first + UNITS && units.end > first)
    }

    fn transfer(
        &self,
        worker: &mut Worker<'_>,
        request: Request,
        direction: Direction,
    ) -> Activity {
        // A buffer's length is a 32-bit number in every task. Without a buffer nothing moves,
        // but the block has to be right all the same.
        let len_bytes = request.buffer().map_or(0, |buffer| buffer.len() as u32);
        if direction == Direction::Write && self.parameters.read_only {
            self.refuse(worker, request, Status::ReadOnly);
            return Activity::IDLE;
        }
        let arguments = request.arguments();
        let pinned = TransferArguments::parse(arguments, len_bytes).and_then(|parsed| {
            if direction == Direction::Read && len_bytes > 0 && request.writable_buffer().is_none()
            {
                return Err(Status::InvalidBuffer);
            }
            Ok((parsed, self.state.allocator.hold(parsed.block)?))
        });
        let (parsed, pinned) = match pinned {
            Ok(pinned) => pinned,
            Err(status) => {
                self.refuse(worker, request, status);
                return Activity::IDLE;
            }
        };
        let transfer = Transfer {
            request,
            direction,
            block: parsed.block,
            offset_in_pool: parsed.block.offset + parsed.offset_in_block,
            len_bytes,
        };
        // Named last, and so the first to go when a panic drops both.
        let pinned = pinned;
        match &self.backend {
            Backend::File(device) if len_bytes > 0 => {
                let counters = self.state.counters.of(worker.index());
                if device.accept(worker, transfer, pinned) {
                    counters.unaligned_operations.add(1);
                }
                return Activity::PENDING;
            }
            Backend::Ram(device) => {
                device.copy(&transfer);
            }
            Backend::File(_) => {}
        }
        drop(pinned);
        self.finish(worker.index(), transfer, Ok(()));
        Activity::IDLE
    }

    /// Ends a transfer whose block is not pinned any more.
    fn finish(&self, worker_index: usize, transfer: Transfer, result: Result<(), Failure>) {
        let Transfer {
            request,
            direction,
            len_bytes,
            ..
        } = transfer;
        let counters = self.state.counters.of(worker_index);
        let len_bytes = u64::from(len_bytes);
        match (result, direction) {
            (Ok(()), Direction::Read) => {
                counters.read_operations.add(1);
                counters.read_bytes.add(len_bytes);
                request.complete(&[len_bytes]);
            }
            (Ok(()), Direction::Write) => {
                counters.write_operations.add(1);
                counters.write_bytes.add(len_bytes);
                request.complete(&[len_bytes]);
            }
            (Err(failure), _) => {
                counters.errors.add(1);
                request.fail(failure);
            }
        }
    }

    fn get_stats(&self, worker: &Worker<'_>, request: Request) {
        let written = request
            .writable_buffer()
            .filter(|buffer| buffer.len() >= STATS_BUFFER_BYTES as usize)
            .ok_or(Status::InvalidBuffer)
            .and_then(|buffer| {
                let bytes = codec::encode(&self.stats()).map_err(|_| Status::InvalidArgument)?;
                buffer.copy_from(0, &bytes);
                Ok(bytes.len() as u64)
            });
        match written {
            Ok(len_bytes) => request.complete(&[len_bytes]),
            Err(status) => self.refuse(worker, request, status),
        }
    }

    fn stats(&self) -> Stats {
        let activity = self.state.counters.sum();
        Stats {
            metrics: self.state.declared.metrics(),
            remaining_size: self.state.allocator.remaining_bytes(),
            total_size: self.state.allocator.total_bytes(),
            metadata_size: self.metadata_size,
            allocated_blocks: self.state.counters.allocated_blocks(&activity),
            persistent: self.keeper.is_some(),
            read_only: self.parameters.read_only,
            bdev_type: self.parameters.bdev_type,
            direct_io: match &self.backend {
                Backend::Ram(_) => false,
                Backend::File(device) => device.is_direct(),
            },
            // As a request for the pool is compared with them; through the page cache there is no
            // alignment to keep.
            io_depth: self.usage.io_depth,
            alignment: self.usage.alignment,
            io_engine: match &self.backend {
                Backend::Ram(_) => None,
                Backend::File(_) => Some(self.usage.io_engine),
            },
            file: match &self.backend {
                Backend::Ram(_) => None,
                Backend::File(device) => Some(device.place().state()),
            },
            activity,
        }
    }

    fn refuse(&self, worker: &Worker<'_>, request: Request, status: Status) {
        self.state.counters.of(worker.index()).errors.add(1);
        request.fail(status);
    }
}
