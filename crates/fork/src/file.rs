//! Files that children do not get.

use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::page::{Owner, hold};
use crate::table::{self, Item, Registration};

/// A value that owns a file, or a file itself. In a forked child its number stands for another file,
/// which means nothing, so whatever the child's copy does concerns nobody.
pub struct Private<T> {
    value: ManuallyDrop<T>,
    registration: Registration,
}

impl<T: AsRawFd> Private<T> {
    /// Makes a value with a file, while no other thread can fork. So it must not wait for anything.
    ///
    /// # Errors
    /// Those of `make`; no memory.
    pub fn new(make: impl FnOnce() -> io::Result<T>) -> io::Result<Self> {
        Self::with_file(make, AsRawFd::as_raw_fd)
    }

    /// Takes a file from now on. A child that was forked before has it.
    ///
    /// # Errors
    /// No memory.
    pub fn adopt(value: T) -> io::Result<Self> {
        Self::new(|| Ok(value))
    }
}

impl<T> Private<T> {
    /// As [`Self::new`], for a value that says otherwise which file it owns.
    ///
    /// # Errors
    /// Those of `make`; no memory.
    pub fn with_file(
        make: impl FnOnce() -> io::Result<T>,
        file: impl FnOnce(&T) -> RawFd,
    ) -> io::Result<Self> {
        let held = hold();
        let value = make()?;
        let registration = table::add(&held, Item::File(file(&value)))?;
        Ok(Self {
            value: ManuallyDrop::new(value),
            registration,
        })
    }
}

impl<T> Drop for Private<T> {
    fn drop(&mut self) {
        match self.registration.process.owner() {
            Owner::This => {
                let held = hold();
                table::remove(&held, &self.registration);
                // Before another thread can fork: a child would have a file that nobody took away.
                // SAFETY: the value is dropped here, and not used after.
                unsafe { ManuallyDrop::drop(&mut self.value) };
            }
            // SAFETY: as above. The file that it closes, or unlocks, is one without meaning.
            Owner::Settled => unsafe { ManuallyDrop::drop(&mut self.value) },
            // The file is another process's, and so may be the table of files.
            Owner::Unsettled => {}
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
