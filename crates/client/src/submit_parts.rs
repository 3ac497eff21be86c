//! Calls with parts of one buffer, many of them in flight at the same time, without blocking.
//!
//! Laws of this module:
//! - A share of the buffer goes along with each part's task. So the buffer exists as long as a task may touch it,
//!   whatever becomes of the future, and comes back when all tasks have ended.
//! - Parts are begun one after another, and none while the one before is unsubmitted. So at most one of them stands in
//!   a lane's queue.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};

use chimaera_proto::Access;
use chimaera_proto::limits::LANE_DEPTH;

use crate::buffer::Buffer;
use crate::call::{Call, Values};
use crate::call_parts::PartError;
use crate::runtime::Runtime;
use crate::task::Task;
use crate::task::pending::Watch;

impl Runtime {
    /// As [`Self::call_parts_receiving`], for the steps of a task ([`Task::of_steps`]): does not block, and the buffer
    /// goes along and comes back. Nothing is submitted before the future is polled.
    ///
    /// Dropping the future gives up the result. Parts that were submitted are carried out all the same,
    /// and the buffer is freed when the last of them has ended.
    ///
    /// # Errors
    /// The first part that failed, and the buffer; it does not come back in a process that was forked from
    /// the one that polled before. [`Status::Busy`](crate::Status::Busy) when too many tasks wait to be
    /// submitted.
    ///
    /// # Panics
    /// If a part's range is not within the buffer.
    pub async fn submit_parts(
        &self,
        buffer: Buffer,
        parts: impl IntoIterator<Item = (Call, Range<usize>)>,
        mut done: impl FnMut(usize, &Values),
    ) -> Result<Buffer, (PartError, Option<Buffer>)> {
        let whole = Arc::new(buffer);
        let mut window = TaskWindow {
            runtime: self,
            whole: Arc::clone(&whole),
            parts: VecDeque::new(),
            failed: None,
        };
        let mut parts = parts.into_iter().enumerate().fuse();
        let result = poll_fn(|context| window.poll_parts(&mut parts, &mut done, context)).await;
        drop(window);
        match (result, Arc::into_inner(whole)) {
            (Ok(()), Some(buffer)) => Ok(buffer),
            (Ok(()), None) => unreachable!("a task that has ended has dropped its share"),
            (Err(error), buffer) => Err((error, buffer)),
        }
    }
}

/// The parts that were begun and have not ended, in order.
struct TaskWindow<'a> {
    runtime: &'a Runtime,
    whole: Arc<Buffer>,
    parts: VecDeque<PartTask>,
    failed: Option<PartError>,
}

struct PartTask {
    part: usize,
    task: Task<Values>,
}

impl TaskWindow<'_> {
    /// Begins and ends parts, as far as that needs no waiting.
    fn poll_parts(
        &mut self,
        parts: &mut impl Iterator<Item = (usize, (Call, Range<usize>))>,
        done: &mut impl FnMut(usize, &Values),
        context: &mut Context<'_>,
    ) -> Poll<Result<(), PartError>> {
        loop {
            while self.may_begin()
                && let Some((part, (call, range))) = parts.next()
            {
                self.begin(part, call, range);
            }
            let mut is_watched = true;
            // The parts between need not be watched: results are taken in order.
            if self.waits_for_record() && self.parts.len() > 1 {
                match self.parts.back_mut().map(|last| last.watch(context)) {
                    Some(Watch::Impossible) => is_watched = false,
                    _ if !self.waits_for_record() => continue,
                    _ => {}
                }
            }
            let Some(first) = self.parts.front_mut() else {
                return Poll::Ready(self.failed.take().map_or(Ok(()), Err));
            };
            match first.watch(context) {
                Watch::Complete => self.end_first(done),
                Watch::Waiting if is_watched => return Poll::Pending,
                Watch::Waiting | Watch::Impossible => {
                    // The executor has to poll again and again.
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }

    /// Whether the last part waits to be submitted.
    fn waits_for_record(&self) -> bool {
        let last = self.parts.back();
        last.is_some_and(|last| !last.task.is_submitted())
    }

    fn may_begin(&self) -> bool {
        self.failed.is_none() && self.parts.len() < LANE_DEPTH && !self.waits_for_record()
    }

    fn begin(&mut self, part: usize, call: Call, range: Range<usize>) {
        let slice = self.whole.range(range);
        let task = match slice.wire_range(self.runtime.memory(), Access::ReadWrite) {
            Ok(range) => {
                let share = Buffer::share(&self.whole);
                self.runtime
                    .submit_range(call, Some(range), Some(share), |ended| Ok(ended.values()?))
            }
            Err(error) => Task::failed(error),
        };
        self.parts.push_back(PartTask { part, task });
    }

    /// Takes the result of the first part, which has ended.
    fn end_first(&mut self, done: &mut impl FnMut(usize, &Values)) {
        let Some(PartTask { part, task }) = self.parts.pop_front() else {
            return;
        };
        match task.wait() {
            Ok(values) if self.failed.is_none() => done(part, &values),
            Err(error) if self.failed.is_none() => {
                let error = error.error;
                self.failed = Some(PartError { part, error });
                // The last part has done nothing yet, and must not.
                if self.waits_for_record() {
                    self.parts.pop_back();
                }
            }
            _ => {}
        }
    }
}

impl PartTask {
    fn watch(&mut self, context: &Context<'_>) -> Watch {
        self.task.watch(context.waker())
    }
}
