//! Files that children do not get.

use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::process::{Origin, hold_off_fork, register};
use crate::registry::{self, Registration, Resource};

/// A file, or a value that owns one. In a forked child its descriptor number names a stand-in without meaning, so
/// nothing that the child's copy of the value does affects anybody.
pub struct Private<T> {
    value: ManuallyDrop<T>,
    registration: Registration,
    is_closed_apart: bool,
}

impl<T: AsRawFd> Private<T> {
    /// Makes a value that owns a file, with `fork` held off meanwhile: `make` must not wait for anything.
    ///
    /// # Errors
    /// Those of `make`; no memory.
    pub fn new(make: impl FnOnce() -> io::Result<T>) -> io::Result<Self> {
        Self::with_file(make, AsRawFd::as_raw_fd)
    }

    /// Takes over a file that exists already. A child that was forked before keeps it.
    ///
    /// # Errors
    /// No memory; the value comes back.
    pub fn adopt(value: T) -> Result<Self, (T, io::Error)> {
        let guard = hold_off_fork();
        match register(&guard, Resource::File(value.as_raw_fd())) {
            Ok(registration) => Ok(Self {
                value: ManuallyDrop::new(value),
                registration,
                is_closed_apart: false,
            }),
            Err(error) => Err((value, error)),
        }
    }
}

impl<T> Private<T> {
    /// As [`Self::new`], for a value of which `file` tells the descriptor that it owns.
    ///
    /// # Errors
    /// Those of `make`; no memory.
    pub fn with_file(
        make: impl FnOnce() -> io::Result<T>,
        file: impl FnOnce(&T) -> RawFd,
    ) -> io::Result<Self> {
        let guard = hold_off_fork();
        let value = make()?;
        let registration = register(&guard, Resource::File(file(&value)))?;
        Ok(Self {
            value: ManuallyDrop::new(value),
            registration,
            is_closed_apart: false,
        })
    }

    /// Has the value dropped without keeping `fork` waiting, for a file whose closing may take as long as a stranger
    /// likes. A child that is forked while it closes has the file until the child ends.
    #[must_use]
    pub fn closed_apart(mut self) -> Self {
        self.is_closed_apart = true;
        self
    }
}

impl<T> Drop for Private<T> {
    fn drop(&mut self) {
        match Origin::of(&self.registration) {
            Origin::Here => {
                let guard = hold_off_fork();
                registry::remove(&guard, &self.registration);
                // Otherwise the file is closed before `fork` goes on: a child would get one that nothing takes away.
                let _guard = if self.is_closed_apart {
                    drop(guard);
                    None
                } else {
                    Some(guard)
                };
                // SAFETY: the value is dropped here, and not used after.
                unsafe { ManuallyDrop::drop(&mut self.value) };
            }
            // SAFETY: as above. What it closes, or unlocks, is the stand-in.
            Origin::Replaced => unsafe { ManuallyDrop::drop(&mut self.value) },
            // The file is the ancestor's, and so may be the descriptor table (`CLONE_FILES`).
            Origin::Inherited => {}
        }
    }
}

impl<T> Deref for Private<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

/// The value may be changed, but not be exchanged for another: its file is registered.
impl<T> DerefMut for Private<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: AsFd> AsFd for Private<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.value.as_fd()
    }
}

impl<T: AsRawFd> AsRawFd for Private<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.value.as_raw_fd()
    }
}

impl<T: fmt::Debug> fmt::Debug for Private<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}
