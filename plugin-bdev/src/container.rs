//! The container of a bdev pool: where its tasks arrive, and where they end.
//!
//! Laws:
//! - A transfer's block is pinned from before its first byte moves until after its last. While
//!   it is, a free of the block does not complete, so what was accepted before a free never
//!   lands in the block's next life.
//! - At the end comes first the unpinning, then the counting, then the completion: a client that
//!   frees a block because it saw its write complete finds the block without pins, and its
//!   operation in the statistics.

#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;

use chimaera_chimod::{Activity, Container, CreateContext, ModuleError, Request, Worker};
use chimaera_proto::bdev::{
    BdevType, Method, PerfMetrics, STATS_BUFFER_BYTES, Stats, TransferArguments,
};
use chimaera_proto::task::ARGUMENT_COUNT;
use chimaera_proto::{Failure, Status, codec};

use crate::allocator::{Allocator, Pin};
use crate::blocks::{self, PendingFree};
use crate::counters::Counters;
use crate::file::FileDevice;
use crate::params::Parameters;
use crate::ram::RamDevice;
use crate::transfer::{Direction, Transfer};

/// A pool of blocks on memory, a file or a block device.
pub struct BdevContainer {
    // Before the allocator, and so dropped first: what is under way has pinned blocks.
    backend: Backend,
    allocator: Allocator<PendingFree>,
    counters: Counters,
    /// With the pool's real size and engine.
    parameters: Parameters,
}

enum Backend {
    Ram(RamDevice),
    File(Box<FileDevice>),
}

impl Container for BdevContainer {
    fn create(context: CreateContext<'_>) -> Result<Self, ModuleError> {
        let mut parameters = Parameters::decode(context.params)?;
        let (backend, undo) = match parameters.bdev_type {
            BdevType::Ram => (Backend::Ram(RamDevice::new(parameters.total_size)?), None),
            BdevType::File => {
                let (device, undo) = FileDevice::new(&context, &parameters)?;
                parameters.total_size = device.total_size();
                parameters.io_engine = device.io_engine();
                (Backend::File(Box::new(device)), Some(undo))
            }
        };
        let allocator = blocks::allocator_of(parameters.total_size, context.worker_count, false)?;
        // Nothing can fail any more.
        if let Some(undo) = undo {
            undo.keep();
        }
        Ok(Self {
            backend,
            allocator,
            counters: Counters::new(context.worker_count),
            parameters,
        })
    }

    fn check_params(&self, params: &[u8]) -> Result<(), ModuleError> {
        let asked = Parameters::decode(params)?;
        let whole_size = match &self.backend {
            Backend::Ram(_) => self.parameters.total_size,
            Backend::File(device) => device.whole_size()?,
        };
        self.parameters.check_same(&asked, whole_size)
    }

    fn submit(&self, worker: &mut Worker<'_>, request: Request) -> Activity {
        let counters = self.counters.of(worker.index());
        match Method::from_number(request.method()) {
            Some(Method::Write) => return self.transfer(worker, request, Direction::Write),
            Some(Method::Read) => return self.transfer(worker, request, Direction::Read),
            Some(Method::AllocateBlocks) => {
                if let Some(request) =
                    blocks::allocate(&self.allocator, worker.index(), counters, request)
                {
                    self.refuse(worker, request, Status::NoSpace);
                }
            }
            Some(Method::FreeBlocks) => blocks::free(&self.allocator, counters, request),
            Some(Method::GetStats) => self.get_stats(worker, request),
            Some(Method::Flush | Method::ListBlocks | Method::GetMap) | None => {
                self.refuse(worker, request, Status::UnknownMethod);
            }
        }
        Activity::IDLE
    }

    const PREFETCHES: bool = true;

    fn prefetch(&self, method: u16, arguments: &[u64; ARGUMENT_COUNT]) {
        let is_read = method == Method::Read as u16;
        if is_read || method == Method::Write as u16 {
            let start = TransferArguments::probable_start(arguments);
            self.allocator.prefetch(start);
            if is_read && let Backend::Ram(device) = &self.backend {
                device.prefetch(start);
            }
        }
    }

    fn poll(&self, worker: &mut Worker<'_>) -> Activity {
        let worker_index = worker.index();
        match &self.backend {
            Backend::Ram(_) => Activity::IDLE,
            Backend::File(device) => device.poll(worker, |transfer, result| {
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
        match &self.backend {
            Backend::Ram(_) => Ok(()),
            Backend::File(device) => device.flush(),
        }
    }
}

impl BdevContainer {
    fn transfer(
        &self,
        worker: &mut Worker<'_>,
        request: Request,
        direction: Direction,
    ) -> Activity {
        // A buffer's length is a 32-bit number in every task. Without a buffer nothing moves,
        // but the block has to be right all the same.
        let len_bytes = request.buffer().map_or(0, |buffer| buffer.len() as u32);
        let arguments = request.arguments();
        let pinned = TransferArguments::parse(arguments, len_bytes).and_then(|parsed| {
            if direction == Direction::Read && len_bytes > 0 && request.writable_buffer().is_none()
            {
                return Err(Status::InvalidBuffer);
            }
            Ok((parsed, self.allocator.pin(parsed.block)?))
        });
        let (parsed, pin): (_, Pin) = match pinned {
            Ok(pinned) => pinned,
            Err(status) => {
                self.refuse(worker, request, status);
                return Activity::IDLE;
            }
        };
        let transfer = Transfer {
            request,
            pin,
            direction,
            block: parsed.block,
            offset_in_pool: parsed.block.offset + parsed.offset_in_block,
            len_bytes,
        };
        match &self.backend {
            Backend::File(device) if len_bytes > 0 => {
                let counters = self.counters.of(worker.index());
                if device.accept(worker, transfer) {
                    counters.unaligned_operations.add(1);
                }
                return Activity::PENDING;
            }
            Backend::Ram(device) => {
                device.copy(&transfer);
            }
            Backend::File(_) => {}
        }
        self.finish(worker.index(), transfer, Ok(()));
        Activity::IDLE
    }

    fn finish(&self, worker_index: usize, transfer: Transfer, result: Result<(), Failure>) {
        let Transfer {
            request,
            pin,
            direction,
            len_bytes,
            ..
        } = transfer;
        self.allocator.unpin(pin);
        let counters = self.counters.of(worker_index);
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
        let metrics: PerfMetrics = self.parameters.metrics;
        Stats {
            metrics,
            remaining_size: self.allocator.remaining_bytes(),
            total_size: self.allocator.total_bytes(),
            metadata_size: 0,
            persistent: false,
            read_only: false,
            bdev_type: self.parameters.bdev_type,
            direct_io: match &self.backend {
                Backend::Ram(_) => false,
                Backend::File(device) => device.is_direct(),
            },
            // Both as they were declared, which is also what a request for the pool is compared
            // with; through the page cache there is no alignment to keep.
            io_depth: self.parameters.io_depth,
            alignment: self.parameters.alignment,
            io_engine: match &self.backend {
                Backend::Ram(_) => None,
                Backend::File(device) => Some(device.io_engine()),
            },
            activity: self.counters.sum(),
        }
    }

    fn refuse(&self, worker: &Worker<'_>, request: Request, status: Status) {
        self.counters.of(worker.index()).errors.add(1);
        request.fail(status);
    }
}
