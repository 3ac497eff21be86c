//! The page that tells a child from its parent, and the lock in it that keeps `fork` waiting.

use std::cell::UnsafeCell;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// The kernel empties it in every child.
#[repr(C)]
pub(crate) struct WipedPage {
    /// Tells apart the processes that have had this memory. A child's is higher than its parent's, and 0 until the
    /// child is known.
    pub(crate) generation: AtomicU64,
    lock: UnsafeCell<libc::pthread_mutex_t>,
}

// SAFETY: the lock is used through the system's functions only, which any thread may call.
unsafe impl Sync for WipedPage {}

const _: () = {
    // An emptied lock is one that nobody holds.
    let free: [u8; size_of::<libc::pthread_mutex_t>()] =
        // SAFETY: a lock is plain bytes to whoever does not use it.
        unsafe { std::mem::transmute(libc::PTHREAD_MUTEX_INITIALIZER) };
    let mut index = 0;
    while index < free.len() {
        assert!(free[index] == 0);
        index += 1;
    }
};

static PAGE: AtomicPtr<WipedPage> = AtomicPtr::new(ptr::null_mut());

/// Used where the system gives no page: the fork handler alone empties this one.
static SPARE: WipedPage = WipedPage {
    generation: AtomicU64::new(0),
    lock: UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER),
};

/// The last generation that was given out. A child counts on from where its parent was.
static LAST_GENERATION: AtomicU64 = AtomicU64::new(0);

impl WipedPage {
    /// The page of this process, if there is one yet. Once there is, it stays the same.
    pub(crate) fn get() -> Option<&'static Self> {
        // SAFETY: the page is never given back.
        unsafe { PAGE.load(Ordering::Acquire).as_ref() }
    }

    /// The page of this process.
    ///
    /// # Safety
    /// It has been made.
    #[inline]
    pub(crate) unsafe fn get_unchecked() -> &'static Self {
        // SAFETY: there is a page, by this function's contract, and it is never given back.
        unsafe { &*PAGE.load(Ordering::Acquire) }
    }

    /// Makes the page. `Err` has the one that another thread made first.
    pub(crate) fn make() -> Result<&'static Self, &'static Self> {
        let made = map_wiped().map_or(ptr::from_ref(&SPARE).cast_mut(), |page| {
            page.as_ptr().cast()
        });
        // SAFETY: a page of zeros is a valid one, and it is never given back.
        let page: &'static Self = unsafe { &*made };
        if page.generation.load(Ordering::Relaxed) == 0 {
            page.generation.store(new_generation(), Ordering::Relaxed);
        }
        // Release pairs with the acquire of those who find the page: they see its generation.
        let first =
            PAGE.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire);
        let Err(other) = first else {
            return Ok(page);
        };
        if !ptr::eq(made, &SPARE) {
            // SAFETY: the page was mapped here, and nobody else knows it.
            unsafe { libc::munmap(made.cast(), PAGE_BYTES) };
        }
        // SAFETY: as in `get`.
        Err(unsafe { &*other })
    }

    /// Frees the lock, whoever holds it.
    ///
    /// # Safety
    /// The calling thread is the only one of the process.
    pub(crate) unsafe fn reset_lock(&self) {
        // SAFETY: nobody else uses the lock, by this function's contract.
        unsafe { self.lock.get().write(libc::PTHREAD_MUTEX_INITIALIZER) };
    }
}

pub(crate) fn new_generation() -> u64 {
    LAST_GENERATION.fetch_add(1, Ordering::Relaxed) + 1
}

pub(crate) fn last_generation() -> u64 {
    LAST_GENERATION.load(Ordering::Relaxed)
}

/// Keeps `fork` of this process waiting until it is dropped, and others who hold `fork` off.
pub(crate) struct ForkGuard(&'static WipedPage);

impl ForkGuard {
    pub(crate) fn take(page: &'static WipedPage) -> Self {
        // SAFETY: an initialised lock, or an emptied one, which is the same. It is never moved. The
        // call cannot fail: a thread takes this lock once at a time.
        unsafe { libc::pthread_mutex_lock(page.lock.get()) };
        Self(page)
    }

    /// The guard that this thread forgot.
    pub(crate) fn of_forgotten(page: &'static WipedPage) -> Self {
        Self(page)
    }
}

impl Drop for ForkGuard {
    fn drop(&mut self) {
        // SAFETY: this thread has taken the lock.
        unsafe { libc::pthread_mutex_unlock(self.0.lock.get()) };
    }
}

/// Bytes of a page. Enough on every machine.
pub(crate) const PAGE_BYTES: usize = 4096;

/// A page of zeros that is one of zeros again in every child. `None` where there is no memory, or
/// the system does not do that (before Linux 4.14).
pub(crate) fn map_wiped() -> Option<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address that the kernel chooses aliases nothing, and advice to
    // wipe it in children does not change it here.
    unsafe {
        let address = libc::mmap(ptr::null_mut(), PAGE_BYTES, protection, flags, -1, 0);
        if address == libc::MAP_FAILED {
            return None;
        }
        if libc::madvise(address, PAGE_BYTES, libc::MADV_WIPEONFORK) != 0 {
            libc::munmap(address, PAGE_BYTES);
            return None;
        }
        NonNull::new(address.cast())
    }
}
