//! Files that the application has opened, handed over to the runtime for the pools that it asks for.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use chimaera_proto::control::{ControlReply, ControlRequest};

use crate::control::RequestError;
use crate::error::Error;
use crate::reentrancy::refuse_inside;
use crate::runtime::Runtime;

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
        self.runtime.inner.offers.lock().give_back(self.number);
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
