//! The connection to a runtime, as its users hold it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use chimaera_fork::Native;
use chimaera_proto::control::{ControlReply, ControlRequest};
use chimaera_proto::{Access, BufferRange, Status};
use chimaera_shm::{Segment, peer_process};
use nix::sys::socket::{getsockopt, sockopt};

use crate::buffer::{Buffer, BufferSlice, BufferSliceMut};
use crate::call::{Call, Finished, Refused, Values, values};
use crate::error::Error;
use crate::lane::ConnectionLost;
use crate::lane_pool::LanePool;
use crate::memory::BufferMemory;
use crate::request_error::RequestError;
use crate::runtime_inner::{DaemonInfo, RuntimeInner};
use crate::task::Task;
use crate::task::unsubmitted::{Unsubmitted, fill_payload};
use crate::task_error::TaskError;

/// A connection to a runtime. Clones are the same connection. It ends when the last clone and the
/// last task handle are dropped; buffers may live longer.
///
/// All methods can be called from any number of threads, each of which has a lane of its own.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) inner: Arc<Native<RuntimeInner>>,
}

impl Runtime {
    /// What the runtime said of itself at connection.
    #[must_use]
    pub fn daemon(&self) -> &DaemonInfo {
        &self.inner.daemon
    }

    /// Whether the runtime was still there when this was called. A process that was forked from the one
    /// that connected is not connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.inner.lanes.is_here() && !self.inner.connection.is_lost()
    }

    /// A file that becomes readable when the daemon's process has ended, however it does: a daemon closes its
    /// connections some time before. `None` for a runtime that this process embeds, and where the system has no such
    /// file: before Linux 5.3, in a sandbox that forbids it, and before Linux 6.5 of a daemon in another pid
    /// namespace.
    ///
    /// # Errors
    /// [`Status::OutOfResources`] where this process has no descriptor left; [`Status::Forked`]. Of a daemon that has
    /// ended already there is a file that is readable at once, or, where the system has none of a process that is gone,
    /// [`Status::ConnectionLost`].
    pub fn watch_daemon(&self) -> Result<Option<OwnedFd>, Error> {
        let operation = "watching the runtime's process";
        if !self.inner.lanes.is_here() {
            return Err(Error::forked(operation));
        }
        let socket = self.inner.connection.control.socket();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Error::new(Status::ConnectionLost, operation),
            _ => Error::io(&error, operation),
        };
        let peer = getsockopt(&**socket, sockopt::PeerCredentials);
        let peer = peer.map_err(|errno| failed(errno.into()))?;
        peer_process::watch(&**socket, peer.pid()).map_err(failed)
    }

    /// Allocates a buffer that tasks of this runtime can use: aligned to 4096 from that length
    /// on, else to 64. Its contents are unspecified. A length of 0 is allowed. It does not block,
    /// save for registering another segment with the daemon when the present ones are full.
    ///
    /// # Errors
    /// [`Status::OutOfMemory`] where the system's memory, or the number of segments, ends, and for more than a segment
    /// holds; [`Status::OutOfResources`] where file descriptors do, and [`Status::Busy`] where the daemon does not
    /// answer for 20 s, after which another attempt may succeed, or for a signal handler; [`Status::IoError`] where
    /// this process may not have so large a file (`ulimit -f`); [`Status::ConnectionLost`] where the present segments
    /// are full; [`Status::Forked`].
    pub fn allocate_buffer(&self, len: usize) -> Result<Buffer, Error> {
        Buffer::allocate(&self.inner.memory, len, &|index, segment, since| {
            self.add_segment(index, segment, since)
        })
    }

    fn add_segment(
        &self,
        index: usize,
        segment: &Segment,
        since: Instant,
    ) -> Result<(), RequestError> {
        let operation = "registering shared memory";
        let request = ControlRequest::AddSegment {
            segment: index as u32,
        };
        let control = &self.inner.connection.control;
        match control.request(&request, Some(segment.as_fd()), since, operation)? {
            (ControlReply::SegmentAdded, _) => Ok(()),
            _ => Err(RequestError::unexpected(operation)),
        }
    }

    /// Carries out a call without a buffer. Blocks until it is done.
    ///
    /// # Errors
    /// The task's failure, or [`Status::ConnectionLost`]; [`Status::Forked`] in a forked child; [`Status::Busy`] for a
    /// signal handler that has interrupted another call. A thread's first call asks the daemon for a lane: then also
    /// [`Status::Busy`] where it does not answer for 20 s, and [`Status::OutOfResources`] where descriptors end.
    #[inline]
    pub fn call(&self, call: &Call) -> Result<Values, Error> {
        self.call_with(call, None)
    }

    /// As [`Self::call`], for a call that waits for a device at least: the thread sleeps at once, and leaves
    /// its processor to whoever carries the call out.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_asleep(&self, call: &Call) -> Result<Values, Error> {
        let lane = self.inner.lanes.current()?;
        match lane.submit(call, None) {
            Ok(flight) => lane.finish_asleep(flight, |record| {
                values(&lane.connection.pools, call, record)
            }),
            Err(_) => Err(Error::connection_lost(call)),
        }
    }

    /// Carries out a call whose buffer the module may read and write. Blocks until it is done.
    ///
    /// # Errors
    /// As [`Self::call`]; [`Status::InvalidBuffer`] for a buffer of another connection.
    #[inline]
    pub fn call_receiving(&self, call: &Call, buffer: BufferSliceMut<'_>) -> Result<Values, Error> {
        let memory = &self.inner.memory;
        let range = buffer.as_slice().wire_range(memory, Access::ReadWrite)?;
        self.call_with(call, Some(range))
    }

    /// Carries out a call whose buffer the module may only read, which the host sees to. Blocks
    /// until it is done.
    ///
    /// # Errors
    /// As [`Self::call_receiving`]; [`Status::InvalidBuffer`] also for a method that would write
    /// the buffer.
    #[inline]
    pub fn call_sending(&self, call: &Call, buffer: BufferSlice<'_>) -> Result<Values, Error> {
        let range = buffer.wire_range(&self.inner.memory, Access::ReadOnly)?;
        self.call_with(call, Some(range))
    }

    /// The borrow of the buffer lasts in the caller until this returns, and nothing between
    /// submitting and waiting can unwind.
    #[inline]
    fn call_with(&self, call: &Call, buffer: Option<BufferRange>) -> Result<Values, Error> {
        let lane = self.inner.lanes.current()?;
        match lane.submit(call, buffer) {
            Ok(flight) => lane.finish(flight, |record| {
                values(&lane.connection.pools, call, record)
            }),
            Err(_) => Err(Error::connection_lost(call)),
        }
    }

    /// Makes a task of a call, with a buffer that goes along and comes back. Does not wait: if the thread's lane has no
    /// room, the task is submitted when it is polled or waited for ([`Task`]). Only a thread's first use of a
    /// connection asks the daemon for something, its lane.
    ///
    /// `finish` makes the task's result, on the thread that takes it. Whatever keeps the task from being submitted is
    /// its failure: [`Status::ConnectionLost`], [`Status::InvalidBuffer`] for a buffer of another connection or of more
    /// than 4 GiB, [`Status::Busy`] when 16,384 tasks of the connection wait to be submitted, and what [`Self::call`]
    /// may fail with.
    #[inline]
    pub fn submit<T>(
        &self,
        call: Call,
        buffer: Option<Buffer>,
        finish: fn(Finished<'_>) -> Result<T, TaskError>,
    ) -> Task<T> {
        let memory = &self.inner.memory;
        let range = match buffer
            .as_ref()
            .map(|buffer| BufferSlice::from(buffer).wire_range(memory, Access::ReadWrite))
        {
            None => None,
            Some(Ok(range)) => Some(range),
            Some(Err(error)) => return Task::refused(Refused::new(call, buffer, error), finish),
        };
        self.submit_range(call, range, buffer, finish)
    }

    /// As [`Self::submit`], with the range that the task names. The buffer, if there is one, keeps the range allocated.
    #[inline]
    pub(crate) fn submit_range<T>(
        &self,
        call: Call,
        range: Option<BufferRange>,
        buffer: Option<Buffer>,
        finish: fn(Finished<'_>) -> Result<T, TaskError>,
    ) -> Task<T> {
        let lane = match self.inner.lanes.current() {
            Ok(lane) => lane,
            Err(error) => return Task::refused(Refused::new(call, buffer, error), finish),
        };
        let mut buffer = buffer;
        let submitted = lane.try_submit(&call, range, |payload| {
            fill_payload(payload, call, &mut buffer);
        });
        match submitted {
            Some(Ok(flight)) => Task::new(lane, flight, finish),
            Some(Err(ConnectionLost)) => {
                let error = Error::connection_lost(call);
                Task::refused(Refused::new(call, buffer, error), finish)
            }
            None => self.submit_later(call, range, buffer, finish),
        }
    }

    /// Makes an unsubmitted task, and tries once to submit it, since there may be a record by now.
    #[cold]
    fn submit_later<T>(
        &self,
        call: Call,
        range: Option<BufferRange>,
        buffer: Option<Buffer>,
        finish: fn(Finished<'_>) -> Result<T, TaskError>,
    ) -> Task<T> {
        match Unsubmitted::new(&self.inner, call, range, buffer) {
            Ok(unsubmitted) => {
                let task = Task::unsubmitted(unsubmitted, finish);
                let _ = task.is_complete();
                task
            }
            Err(refused) => Task::refused(*refused, finish),
        }
    }

    /// Frees the buffers of tasks whose handles were dropped and that have completed since. Submitting does this for
    /// the thread's own lane; this does it for all lanes.
    pub fn reap(&self) {
        self.inner.lanes.reap_detached();
    }

    pub(crate) fn lanes(&self) -> &Arc<LanePool> {
        &self.inner.lanes
    }

    pub(crate) fn memory(&self) -> &Arc<BufferMemory> {
        &self.inner.memory
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("daemon", &self.inner.daemon)
            .field("connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}
