//! The error of a task, which gives back the task's buffer.

use std::fmt;
use std::io;

use chimaera_proto::Status;

use crate::buffer::Buffer;
use crate::error::Error;

/// The error of a task, together with the buffer that went along with it.
///
/// `?` turns it into an [`Error`], an [`io::Error`], or a boxed error, where the buffer is not needed. `Debug` is as
/// that of [`Error`].
#[derive(thiserror::Error)]
#[error("{error}")]
pub struct TaskError {
    /// What happened.
    pub error: Error,
    /// The buffer that the task was given, if any. Nobody else uses it any more.
    pub buffer: Option<Buffer>,
}

impl TaskError {
    /// Joins an error with the buffer that it must not lose.
    #[must_use]
    pub fn new(error: Error, buffer: Option<Buffer>) -> Self {
        Self { error, buffer }
    }

    /// What happened, for a program to tell apart.
    #[must_use]
    pub fn status(&self) -> Status {
        self.error.status()
    }

    /// Takes the buffer out.
    #[must_use]
    pub fn into_buffer(self) -> Option<Buffer> {
        self.buffer
    }
}

impl From<Error> for TaskError {
    fn from(error: Error) -> Self {
        Self::new(error, None)
    }
}

impl From<TaskError> for Error {
    fn from(error: TaskError) -> Self {
        error.error
    }
}

impl From<TaskError> for io::Error {
    fn from(error: TaskError) -> Self {
        error.error.into()
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return fmt::Display::fmt(self, f);
        }
        f.debug_struct("TaskError")
            .field("error", &self.error)
            .field("buffer", &self.buffer)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_main_shows_is_what_a_person_reads() {
        let error = Error::new(Status::NoSpace, "allocating 4096 bytes in pool 8000.0");
        let text = error.to_string();
        assert_eq!(format!("{:?}", TaskError::from(error)), text);
    }
}
