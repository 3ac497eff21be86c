//! Why a request on the control socket failed.

use chimaera_proto::Status;

use crate::error::Error;

/// The failure of a request.
#[derive(Debug)]
pub(crate) struct RequestError {
    pub(crate) error: Error,
    /// Whether it is certain that the daemon has not carried it out: it refused, and has not carried out the same
    /// request before either.
    pub(crate) is_settled: bool,
}

impl RequestError {
    pub(crate) fn unsettled(error: Error) -> Self {
        Self {
            error,
            is_settled: false,
        }
    }

    pub(crate) fn refused(status: Status, reason: String, operation: &str) -> Self {
        Self {
            error: Error::new(status, operation).with_account(reason),
            // A daemon without descriptors cannot check whether the request is a repetition.
            is_settled: status != Status::OutOfResources,
        }
    }

    /// The reply is one to another kind of request.
    pub(crate) fn unexpected(operation: &str) -> Self {
        let error = Error::new(Status::ProtocolViolation, operation);
        Self::unsettled(error.with_detail("the daemon's reply is not the expected one"))
    }
}

impl From<RequestError> for Error {
    fn from(error: RequestError) -> Self {
        error.error
    }
}
