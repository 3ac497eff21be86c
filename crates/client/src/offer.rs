//! Files that the application has opened, handed over to the runtime for the pools that it asks for.

use std::future::poll_fn;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::time::Instant;

use chimaera_proto::Status;
use chimaera_proto::control::{ControlReply, ControlRequest};

use crate::error::Error;
use crate::reentrancy::{is_inside, refuse_inside};
use crate::request_error::RequestError;
use crate::runtime::Runtime;
use crate::task::Task;
use crate::task_error::TaskError;

/// A file that the runtime has, for the pool that a request asks for
/// ([`GetOrCreatePool::file`](chimaera_proto::admin::GetOrCreatePool::file)).
///
/// If this is dropped before the request was answered, the runtime may keep the file until it is asked for or the
/// connection ends.
#[derive(Debug)]
pub struct OfferedFile {
    runtime: Runtime,
    number: u64,
}

impl OfferedFile {
    /// The number by which the request names the file.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The request was answered, or is not sent: nothing names the file any more.
    pub fn settle(self) {
        let inner = &self.runtime.inner;
        // A forked child has no part in the connection, and in a signal handler the lock may be held for good.
        if inner.lanes.is_here() && !is_inside() {
            inner.offers.lock().give_back(self.number);
        }
    }

    /// Waits for the task of the request that names the file, and settles the offer as soon as that is answered. If
    /// this is dropped before, the offer is settled where the request was not submitted, and never will be. Else the
    /// runtime comes to use the file, and the number is not used again, since the file of a later offer would come into
    /// the request.
    pub(crate) async fn during<T>(self, request: Task<T>) -> Result<T, TaskError> {
        let mut asked = AskedFor {
            request: Some(request),
            offered: Some(self),
        };
        let answer = poll_fn(|context| {
            let request = asked.request.as_mut().expect("it was not dropped");
            Pin::new(request).poll(context)
        });
        let answer = answer.await;
        let is_lost = |error: &TaskError| error.status() == Status::ConnectionLost;
        // A connection that is lost has no use for the number.
        if !answer.as_ref().is_err_and(is_lost) {
            asked.settle();
        }
        answer
    }
}

/// The task of a request that names a file which was offered.
struct AskedFor<T> {
    request: Option<Task<T>>,
    /// Until it is settled.
    offered: Option<OfferedFile>,
}

impl<T> AskedFor<T> {
    fn settle(&mut self) {
        if let Some(offered) = self.offered.take() {
            offered.settle();
        }
    }
}

impl<T> Drop for AskedFor<T> {
    fn drop(&mut self) {
        let was_submitted = self.request.as_ref().is_none_or(Task::is_submitted);
        // First, so that nothing can name the file when another one gets its number.
        self.request = None;
        if !was_submitted {
            self.settle();
        }
    }
}

impl Runtime {
    /// Hands a file over to the runtime, which duplicates it: this process may close its own. Blocks for the runtime's
    /// answer.
    ///
    /// # Errors
    /// [`Status::Busy`](crate::Status::Busy) where eight files were handed over and the pools were not asked for yet,
    /// where the runtime does not answer for 20 s, and for a signal handler that has interrupted another call;
    /// [`Status::OutOfResources`](crate::Status::OutOfResources) where it has no descriptor left;
    /// [`Status::ConnectionLost`](crate::Status::ConnectionLost); [`Status::Forked`](crate::Status::Forked).
    pub fn offer_file(&self, file: BorrowedFd<'_>) -> Result<OfferedFile, Error> {
        let (operation, since) = ("handing over a file", Instant::now());
        if !self.inner.lanes.is_here() {
            return Err(Error::forked(operation));
        }
        refuse_inside(operation)?;
        let number = self.inner.offers.lock().take();
        let offered = OfferedFile {
            runtime: self.clone(),
            number,
        };
        let request = ControlRequest::OfferFile { number };
        let control = &self.inner.connection.control;
        let answer = control.request(&request, Some(file), since, operation);
        let error = match answer {
            Ok((ControlReply::FileOffered, _)) => return Ok(offered),
            Ok(_) => RequestError::unexpected(operation),
            Err(error) => error,
        };
        offered.settle();
        Err(error.into())
    }
}
