//! The error of a module, in the words that its client's user reads.

use std::fmt;
use std::io;

use crate::status::{Failure, Status};

/// Why a module did not do what the control side asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ModuleError {
    /// Kind of the error.
    pub failure: Failure,
    /// What happened, to what, and what to do.
    pub message: String,
}

impl ModuleError {
    /// An error of this kind. The message says what happened, to what, and what to do.
    #[must_use]
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Self {
            failure: Failure::new(status),
            message: message.into(),
        }
    }

    /// An error of the operating system. `action` says what was tried with what.
    #[must_use]
    pub fn system(action: impl fmt::Display, error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(0);
        let status = Status::from_errno(errno);
        Self {
            failure: Failure {
                status,
                errno: u16::try_from(errno).unwrap_or(0),
            },
            message: format!("{action}: {error}{}", remedy(errno)),
        }
    }
}

/// What helps where descriptors ran out. They belong to the whole process, so the failed action does not say it.
const fn remedy(errno: i32) -> &'static str {
    match errno {
        23 => "; raise fs.file-max, or end programs", // ENFILE
        24 => "; raise `ulimit -n`",                  // EMFILE
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_want_of_descriptors_names_its_limit_whatever_wanted_one() {
        for (errno, limit) in [(24, "raise `ulimit -n`"), (23, "raise fs.file-max")] {
            let error = ModuleError::system("cannot make it", &io::Error::from_raw_os_error(errno));
            assert_eq!(error.failure.status, Status::OutOfResources);
            assert!(error.message.contains(limit), "{error}");
        }
        let error = ModuleError::system("cannot make it", &io::Error::from_raw_os_error(5));
        assert!(error.message.ends_with("(os error 5)"), "{error}");
    }
}
