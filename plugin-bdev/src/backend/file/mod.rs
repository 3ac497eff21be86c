//! Pools on files and block devices.
//!
//! [`open`] opens the file, and each worker's [`queue`] takes transfers to an [`engine`]. The kernel has two,
//! [`aio`] and [`uring`], of which [`select`] chooses one. [`operation`] says how a transfer is done on a
//! device that knows only whole blocks, and [`write_exclusion`] which writes must not meet while that happens.

mod aio;
mod aio_ring;
mod beneath;
mod blocking;
mod bounce;
mod direct;
mod engine;
mod kernel_queries;
mod metadata_disk;
mod named_file;
mod open;
mod open_files;
mod operation;
mod queue;
pub(crate) mod rings;
mod select;
mod slab;
mod source;
mod submitter;
#[cfg(test)]
mod tests;
mod undo;
mod uring;
mod write_exclusion;
mod zoned;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use chimaera_bdev_allocator::{FreeCompletion, Pin, Pinned};
use chimaera_bdev_format::contents::{self, DeviceContents};
use chimaera_bdev_format::image::{FileDisk, FileLock, PoolFile, is_read_only, size_of};
use chimaera_bdev_proto::IoEngine;
use chimaera_bdev_proto::UNIT_BYTES;
use chimaera_chimod::{
    Activity, CreateContext, Host, HostResource, Level, ModuleError, PerWorker, Worker,
};
use chimaera_proto::Failure;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::backend::transfer::Transfer;
use crate::params::{DeviceUsage, Parameters};
use blocking::Blocking;
pub(crate) use metadata_disk::MetadataDisk;
pub(crate) use named_file::NamedFile;
pub(crate) use open::{not_blank, nothing_to_read};
use open_files::OpenFile;
use operation::Operation;
use queue::{GrantExchange, REFUSAL_PATIENCE, TransferOutcome, WorkerQueue};
use select::{EngineSetup, KernelEngine};
use source::FileOrigin;
use submitter::SubmittingThread;
pub(crate) use undo::Undo;

/// The file or device of a pool.
pub(crate) struct FileDevice {
    // First, and so dropped first: that waits for what is under way on the file.
    queues: PerWorker<WorkerQueue<KernelEngine>>,
    // Before the file is unlocked and closed.
    _place: OpenFile,
    exchange: GrantExchange,
    wakes: Box<[Arc<EventFd>]>,
    file: PoolFile,
    origin: FileOrigin,
    disk: FileDisk,
    named_file: Arc<NamedFile>,
    name: String,
    total_size: u64,
    /// Bytes that were asked for when it was opened; 0 for all there is.
    size_asked: u64,
    direct: bool,
    /// How the device is really used.
    usage: DeviceUsage,
    /// The unit in which the device reads and writes, in bytes: 1 through the page cache.
    unit_bytes: u32,
    host: Host,
    told_of_early_end: AtomicBool,
    /// The size of the file of which the log was told last that the pool does not have it.
    told_of_growth: AtomicU64,
    told_of_refusal: AtomicBool,
    size_before: u64,
    tail_before: Vec<u8>,
    _lock: FileLock,
}

/// Has the host count what a pool takes whose queues have this depth, before any of it is taken: the file, another one
/// for the keeper, and for each worker what wakes it and a queue.
fn charge(context: &CreateContext<'_>, io_depth: u32) -> Result<(), ModuleError> {
    let workers = context.worker_count as u64;
    let host = context.host;
    host.charge(HostResource::Descriptors, 2 + 2 * workers)?;
    host.charge(HostResource::IoDepth, u64::from(io_depth) * workers)
}

/// Has the host count the rings of a pool, if its engine is of the kind that has one for each worker.
fn charge_rings(context: &CreateContext<'_>, kind: IoEngine) -> Result<(), ModuleError> {
    match kind {
        IoEngine::IoUring => {
            let workers = context.worker_count as u64;
            context.host.charge(HostResource::Rings, workers)
        }
        _ => Ok(()),
    }
}

/// What wakes each worker.
fn wakes(worker_count: usize) -> Result<Box<[Arc<EventFd>]>, ModuleError> {
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    (0..worker_count)
        .map(|_| EventFd::from_value_and_flags(0, flags).map(Arc::new))
        .collect::<Result<_, _>>()
        .map_err(|errno| ModuleError::system("cannot make an eventfd", &io::Error::from(errno)))
}

impl FileDevice {
    /// Opens the pool's file and makes each worker's queue. Dropping the second value undoes what was changed
    /// for it.
    ///
    /// # Errors
    /// Whatever prevents it; the file is as it was before.
    pub(crate) fn new(
        context: &CreateContext<'_>,
        parameters: &Parameters,
    ) -> Result<(Self, Undo), ModuleError> {
        let opened = open::open(context, parameters)?;
        charge(context, opened.usage.io_depth)?;
        let wakes = wakes(context.worker_count)?;
        let blocking = Blocking::of(&opened.file, opened.direct);
        let make_queue = |kind, worker_index: usize, submitter: Option<&Arc<SubmittingThread>>| {
            let setup = EngineSetup {
                file: &opened.file,
                wake: &wakes[worker_index],
                io_depth: opened.usage.io_depth,
                worker_count: context.worker_count,
                blocking,
                submitter,
                needs_ring: opened.origin == FileOrigin::PassedByUser,
            };
            let engine = KernelEngine::new(kind, &setup)?;
            Ok(WorkerQueue::new(engine, setup.io_depth, worker_index))
        };
        let make_queues = |kind| {
            charge_rings(context, kind)?;
            let operations = opened.usage.io_depth as usize * context.worker_count;
            let submitter = select::submitter(kind, blocking, operations, context.host)?;
            let make = |worker| make_queue(kind, worker, submitter.as_ref());
            // SAFETY: the value becomes a part of the container that the context is for, which
            // reaches it only from its own calls on workers.
            unsafe { PerWorker::try_new(context, make) }
        };
        let asked = parameters.usage.io_engine;
        let (queues, io_engine) = match opened.origin {
            FileOrigin::PassedByUser => select::choose_ring(asked, make_queues)?,
            FileOrigin::Opened | FileOrigin::PassedByOperator => select::choose(
                (asked, opened.usage.io_engine),
                opened.direct,
                make_queues,
                context.host,
            )?,
        };
        let device = Self {
            queues,
            _place: opened.place,
            exchange: GrantExchange::new(&wakes),
            wakes,
            named_file: Arc::new(NamedFile::new(
                Arc::clone(&opened.file),
                context.name,
                opened.origin,
                opened.total_size,
            )),
            disk: FileDisk::new(Arc::clone(&opened.file)),
            file: opened.file,
            origin: opened.origin,
            name: context.name.to_owned(),
            total_size: opened.total_size,
            size_asked: parameters.total_size,
            direct: opened.direct,
            usage: DeviceUsage {
                io_engine,
                ..opened.usage
            },
            unit_bytes: match opened.direct {
                true => opened.usage.alignment,
                false => 1,
            },
            host: context.host,
            told_of_early_end: AtomicBool::new(false),
            told_of_growth: AtomicU64::new(0),
            told_of_refusal: AtomicBool::new(false),
            size_before: opened.size_before,
            tail_before: opened.tail_before,
            _lock: opened.lock,
        };
        Ok((device, opened.undo))
    }

    /// Bytes of the file that the pool may have.
    pub(crate) fn total_size(&self) -> u64 {
        self.total_size
    }

    /// Bytes that were asked for when it was opened; 0 for all there is.
    pub(crate) fn size_asked(&self) -> u64 {
        self.size_asked
    }

    /// Whether nothing can be written there, by nobody: see [`is_read_only`].
    pub(crate) fn cannot_be_written(&self) -> bool {
        is_read_only(&self.file)
    }

    /// Whether a user who is no operator has passed the file and has it open for writing himself, whatever its mode is
    /// by now.
    pub(crate) fn passer_can_write(&self) -> bool {
        let flags = fcntl(&self.file, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
        let only_reads = flags.is_ok_and(|flags| flags & OFlag::O_ACCMODE == OFlag::O_RDONLY);
        self.origin == FileOrigin::PassedByUser && !only_reads
    }

    /// Whether I/O bypasses the page cache.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    /// How the device is used, with the engine that its I/O really goes through.
    pub(crate) fn usage(&self) -> DeviceUsage {
        self.usage
    }

    /// Bytes that a pool over the whole file would manage now.
    pub(crate) fn whole_size(&self) -> Result<u64, ModuleError> {
        let size = size_of(&self.file).map_err(|error| {
            let action = format_args!("cannot find out the size of {}", self.name);
            ModuleError::system(action, &error)
        })?;
        Ok(size - size % UNIT_BYTES)
    }

    /// As [`Self::whole_size`], of no more than the file had when it was opened: an open pool does not grow with its
    /// file. If that has grown, the log is told.
    pub(crate) fn whole_size_when_opened(&self) -> Result<u64, ModuleError> {
        let now = self.whole_size()?;
        let before = self.size_before - self.size_before % UNIT_BYTES;
        let opened = before.max(self.total_size);
        // Relaxed: the number stands for itself.
        if now > opened && self.told_of_growth.swap(now, Ordering::Relaxed) != now {
            self.host.log(
                Level::Warning,
                format_args!(
                    "the file or device has {now} bytes now, it had {opened} when the pool was opened: the pool grows \
                     when it is destroyed, which leaves what it holds, and created again"
                ),
            );
        }
        Ok(now.min(opened))
    }

    /// Takes a transfer of at least one byte, whose block is pinned, and returns whether it is unaligned, so
    /// that the device cannot do it as it was asked for.
    pub(crate) fn accept<C: FreeCompletion>(
        &self,
        worker: &mut Worker<'_>,
        transfer: Transfer,
        pinned: Pinned<'_, C>,
    ) -> bool {
        let operation = Operation::new(transfer, self.unit_bytes);
        let unaligned = operation.is_unaligned();
        self.queues
            .get_mut(worker)
            .accept(operation, pinned, &self.exchange);
        unaligned
    }

    /// Moves the worker's transfers forward, and calls `finished` for those that have ended, with the pins
    /// of their blocks.
    pub(crate) fn poll(
        &self,
        worker: &mut Worker<'_>,
        mut finished: impl FnMut(Transfer, Pin, Result<(), Failure>),
    ) -> Activity {
        self.queues
            .get_mut(worker)
            .poll(&self.exchange, &mut |transfer, pin, outcome| {
                let result = match outcome {
                    TransferOutcome::Done => Ok(()),
                    TransferOutcome::Failed(failure) => Err(failure),
                    TransferOutcome::EndedEarly => {
                        self.tell_of_early_end(&transfer);
                        Err(Failure::io(libc::EIO))
                    }
                    TransferOutcome::NotTaken => {
                        self.tell_of_refusal();
                        Err(Failure::io(libc::EAGAIN))
                    }
                };
                finished(transfer, pin, result);
            })
    }

    /// The file that is readable when the worker's transfers may move forward.
    pub(crate) fn wake_fd(&self, worker_index: usize) -> Option<BorrowedFd<'_>> {
        Some(self.wakes.get(worker_index)?.as_fd())
    }

    /// The file, with the path that it was opened at.
    pub(crate) fn named_file(&self) -> &Arc<NamedFile> {
        &self.named_file
    }

    /// The file, as metadata sees it.
    pub(crate) fn disk(&self) -> FileDisk {
        self.disk.clone()
    }

    /// The file, as the keeper of its metadata writes it.
    pub(crate) fn metadata_disk(&self) -> MetadataDisk {
        MetadataDisk::new(&self.file, self.disk.clone())
    }

    /// Bytes that the file had when it was opened, before it was made as large as was asked for.
    pub(crate) fn size_before(&self) -> u64 {
        self.size_before
    }

    /// What the file seems to hold, by samples of it. Blank also where it cannot be read.
    pub(crate) fn probable_contents(&self) -> DeviceContents {
        let contents = contents::probe(&self.disk, self.size_before, &self.tail_before);
        contents.unwrap_or(DeviceContents::Blank)
    }

    /// What the file held when it was opened. `progress` hears how many bytes were passed, and how many there are.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn contents_before(
        &self,
        progress: &mut dyn FnMut(u64, u64),
    ) -> io::Result<DeviceContents> {
        let Self {
            size_before,
            tail_before,
            ..
        } = self;
        self.disk.contents(*size_before, tail_before, progress)
    }

    /// Tells the log that the kernel took nothing. Once: if the cause stays, every transfer would repeat it.
    #[cold]
    fn tell_of_refusal(&self) {
        if self.told_of_refusal.swap(true, Ordering::Relaxed) {
            return;
        }
        self.host.log(
            Level::Error,
            format_args!(
                "the kernel took no operation for {} seconds (EAGAIN), with none of its worker's under \
                 way; the transfers that waited failed, and so will others while it goes on: see what the \
                 kernel's log says of the device, and whether memory is short",
                REFUSAL_PATIENCE.as_secs()
            ),
        );
    }

    /// Tells the log that the file ends before the pool does. Once: the cause does not go away, and every
    /// transfer behind the end would repeat it.
    fn tell_of_early_end(&self, transfer: &Transfer) {
        if self.told_of_early_end.swap(true, Ordering::Relaxed) {
            return;
        }
        self.host.log(
            Level::Error,
            format_args!(
                "the file ends before byte {}, though the pool has {} bytes: it was truncated while \
                 in use, or its device shrank; transfers beyond its end fail",
                transfer.offset_in_pool + u64::from(transfer.len_bytes),
                self.total_size
            ),
        );
    }
}
