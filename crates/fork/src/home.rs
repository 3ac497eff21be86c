//! Values that know their process.

use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::page::{PAGE_BYTES, map_wiped};
use crate::process::{Origin, ProcessIdentity, hold_off_fork, register};
use crate::registry::{self, Registration, Resource};

/// A number that is 0 in every process but the one that made it. Clones share the number.
///
/// It costs a page; reading it is one load from a cache line that nobody writes. It is for what is checked with every
/// task; [`ProcessIdentity`] is for everything else.
#[derive(Clone, Debug)]
pub struct Home {
    word: NonNull<AtomicU64>,
    _page: Arc<HomePage>,
}

// SAFETY: the word is an atomic, and mapped as long as the page that the value shares.
unsafe impl Send for Home {}
// SAFETY: as above.
unsafe impl Sync for Home {}

#[derive(Debug)]
struct HomePage {
    word: NonNull<AtomicU64>,
    /// Whether the word lies in a page that the kernel empties; if not, the fork handler clears the word.
    is_wiped: bool,
    registration: Registration,
}

// SAFETY: as for `Home`, which alone uses the word.
unsafe impl Send for HomePage {}
// SAFETY: as above.
unsafe impl Sync for HomePage {}

impl Home {
    /// Makes this process the home of something with this number.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for the number 0; no memory.
    pub fn new(number: u64) -> io::Result<Self> {
        if number == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let guard = hold_off_fork();
        let (word, is_wiped) = match map_wiped() {
            Some(page) => (page.cast::<AtomicU64>(), true),
            None => (NonNull::from(Box::leak(Box::default())), false),
        };
        // SAFETY: an aligned word of zeros that is valid until the page is dropped.
        unsafe { word.as_ref() }.store(number, Ordering::Relaxed);
        let give_back = || {
            // SAFETY: the word was made as this says, and nobody has it any more.
            unsafe { give_back(word, is_wiped) };
        };
        let resource = Resource::Word(word.as_ptr().expose_provenance());
        let registration = register(&guard, resource).inspect_err(|_| give_back())?;
        Ok(Self {
            word,
            _page: Arc::new(HomePage {
                word,
                is_wiped,
                registration,
            }),
        })
    }

    /// The number, or 0 in another process. Takes no lock.
    #[inline]
    #[must_use]
    pub fn number(&self) -> u64 {
        // SAFETY: the word is mapped as long as the page that this value shares.
        unsafe { self.word.as_ref() }.load(Ordering::Relaxed)
    }

    /// Whether this is the process that made it. Takes no lock.
    #[inline]
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.number() != 0
    }
}

impl Drop for HomePage {
    fn drop(&mut self) {
        if Origin::of(&self.registration) != Origin::Here {
            // In a child it is an empty page, which costs nothing.
            return;
        }
        let guard = hold_off_fork();
        registry::remove(&guard, &self.registration);
        // SAFETY: the word was made as this says, and nobody has it any more.
        unsafe { give_back(self.word, self.is_wiped) };
    }
}

/// # Safety
/// The word was made by [`Home::new`], in a page of its own or not, and is not used any more.
unsafe fn give_back(word: NonNull<AtomicU64>, is_wiped: bool) {
    // SAFETY: by this function's contract.
    unsafe {
        if is_wiped {
            libc::munmap(word.as_ptr().cast(), PAGE_BYTES);
        } else {
            drop(Box::from_raw(word.as_ptr()));
        }
    }
}

/// A value that only the process that made it drops. In a forked child it is forgotten: what it would
/// do there, such as waiting for threads or taking locks, cannot be done.
pub struct Native<T> {
    value: ManuallyDrop<T>,
    process: ProcessIdentity,
}

impl<T> Native<T> {
    /// Makes a value that this process drops.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self {
            value: ManuallyDrop::new(value),
            process: ProcessIdentity::current(),
        }
    }

    /// Whether this is the process that made it. Takes no lock.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.process.is_current()
    }
}

impl<T> Drop for Native<T> {
    fn drop(&mut self) {
        if self.is_here() {
            // SAFETY: the value is dropped here, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}

impl<T> Deref for Native<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Native<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Native<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// A static of which every process has a value of its own: a child's copy of its parent's value may be locked by a
/// thread that does not exist there, or describe what the child does not have. The value is made on first use, and
/// never dropped.
pub struct PerProcess<T: 'static> {
    made: AtomicPtr<Made<T>>,
    make: fn() -> T,
}

struct Made<T> {
    process: ProcessIdentity,
    value: T,
}

impl<T: Send + Sync> PerProcess<T> {
    /// Each process makes its value by calling `make`.
    #[must_use]
    pub const fn new(make: fn() -> T) -> Self {
        Self {
            made: AtomicPtr::new(ptr::null_mut()),
            make,
        }
    }

    /// The calling process's value. Takes no lock.
    #[must_use]
    pub fn get(&self) -> &'static T {
        let found = self.made.load(Ordering::Acquire);
        // SAFETY: what stands there is never given back.
        match unsafe { found.as_ref() } {
            Some(made) if made.process.is_current() => &made.value,
            _ => self.make(found),
        }
    }

    #[cold]
    fn make(&self, mut found: *mut Made<T>) -> &'static T {
        let process = ProcessIdentity::current();
        let own = Box::into_raw(Box::new(Made {
            process,
            value: (self.make)(),
        }));
        loop {
            // Release pairs with the acquire of those who find it: they see what was made.
            let entered =
                self.made
                    .compare_exchange(found, own, Ordering::AcqRel, Ordering::Acquire);
            let Err(other) = entered else {
                // SAFETY: it was made here, and is never given back.
                return unsafe { &(*own).value };
            };
            // SAFETY: as in `get`.
            if let Some(other) = unsafe { other.as_ref() }
                && other.process == process
            {
                // SAFETY: it was made here, and nobody else knows it.
                drop(unsafe { Box::from_raw(own) });
                return &other.value;
            }
            found = other;
        }
    }
}

impl<T> fmt::Debug for PerProcess<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerProcess").finish_non_exhaustive()
    }
}
