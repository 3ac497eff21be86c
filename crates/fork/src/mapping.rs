//! Memory that children do not get.

use std::io;
use std::ptr::NonNull;

use crate::process::{Origin, hold_off_fork, register};
use crate::registry::{self, Registration, Resource};

const DONTFORK: libc::c_int = libc::MADV_DONTFORK;

/// A mapping that a forked child does not have. Where it was, the child has private zeros.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    len: usize,
    registration: Registration,
}

// SAFETY: this is an address and a length; whoever uses the bytes vouches for that.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Makes a mapping of `len` bytes, while no other thread can fork. It is unmapped on drop.
    ///
    /// # Errors
    /// Those of `map`; no memory; [`io::ErrorKind::InvalidInput`] for no bytes at all.
    ///
    /// # Safety
    /// `map` gives the address of a mapping of `len` bytes, whole pages, that nobody else unmaps or
    /// replaces.
    pub unsafe fn new(
        len: usize,
        map: impl FnOnce() -> io::Result<NonNull<u8>>,
    ) -> io::Result<Self> {
        if len == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let guard = hold_off_fork();
        let address = map()?;
        let resource = Resource::Mapping {
            address: address.as_ptr().addr(),
            len,
        };
        // SAFETY: the mapping is whole and just made; this changes what children have of it.
        let registered = match unsafe { libc::madvise(address.as_ptr().cast(), len, DONTFORK) } {
            0 => register(&guard, resource),
            _ => Err(io::Error::last_os_error()),
        };
        let registration = registered.inspect_err(|_| {
            // SAFETY: nobody knows of the mapping.
            unsafe { libc::munmap(address.as_ptr().cast(), len) };
        })?;
        Ok(Self {
            address,
            len,
            registration,
        })
    }

    /// Its first byte. In the process that made the mapping, `len` bytes are valid from there on as
    /// long as the value lives.
    #[inline]
    #[must_use]
    pub fn address(&self) -> NonNull<u8> {
        self.address
    }

    /// Its length in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes, which none has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // In a child there are private zeros, which cost nothing, or other memory of the child's.
        if Origin::of(&self.registration) == Origin::Here {
            let guard = hold_off_fork();
            registry::remove(&guard, &self.registration);
            // SAFETY: the mapping is this value's own, by the contract of `new`. Unmapping what was
            // mapped does not fail.
            unsafe { libc::munmap(self.address.as_ptr().cast(), self.len) };
        }
    }
}
