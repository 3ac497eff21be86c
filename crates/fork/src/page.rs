//! The page that tells a child from its parent, and the lock that keeps `fork` out.
//!
//! This file and `table` import each other: a child's handler, which is set up with the page, takes away what the table
//! lists, and the table is changed only by whoever has the page's lock.

use std::cell::UnsafeCell;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::table;

/// Emptied by the kernel in every child.
#[repr(C)]
struct Page {
    /// Which process this is, among those that had this memory: that of its parent is lower, and
    /// that of a child not known yet is 0.
    generation: AtomicU64,
    lock: UnsafeCell<libc::pthread_mutex_t>,
}

// SAFETY: the lock is used through the system's functions only, which any thread may call.
unsafe impl Sync for Page {}

const _: () = {
    // An emptied lock is one that nobody has.
    let free: [u8; size_of::<libc::pthread_mutex_t>()] =
        // SAFETY: a lock is plain bytes to whoever does not use it.
        unsafe { std::mem::transmute(libc::PTHREAD_MUTEX_INITIALIZER) };
    let mut index = 0;
    while index < free.len() {
        assert!(free[index] == 0);
        index += 1;
    }
};

static PAGE: AtomicPtr<Page> = AtomicPtr::new(ptr::null_mut());

/// Where the system has no page to give: then the handler alone empties it.
static SPARE: Page = Page {
    generation: AtomicU64::new(0),
    lock: UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER),
};

/// The last generation that was given out. A child goes on where its parent was.
static LAST_GENERATION: AtomicU64 = AtomicU64::new(0);

/// What is of this generation or a lower one came here without the handler: its files are still
/// those of another process.
static LAST_UNSETTLED: AtomicU64 = AtomicU64::new(0);

/// A process, to be compared with the one that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessIdentity {
    generation: u64,
}

/// Whose something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This process made it.
    This,
    /// Another did, and the handler took it away here.
    Settled,
    /// Another did, and what it holds is that one's.
    Unsettled,
}

impl ProcessIdentity {
    /// The calling process.
    #[must_use]
    pub fn current() -> Self {
        let page = page();
        let generation = match page.generation.load(Ordering::Relaxed) {
            0 => settle(page),
            generation => generation,
        };
        Self { generation }
    }

    /// Whether this is the calling process. Takes no lock.
    #[inline]
    #[must_use]
    pub fn is_current(self) -> bool {
        let page = PAGE.load(Ordering::Acquire);
        // SAFETY: there was a page when this value was made, and it is never taken away.
        self.generation == unsafe { &*page }.generation.load(Ordering::Relaxed)
    }

    pub(crate) fn owner(self) -> Owner {
        if Self::current() == self {
            Owner::This
        } else if self.generation > LAST_UNSETTLED.load(Ordering::Relaxed) {
            Owner::Settled
        } else {
            Owner::Unsettled
        }
    }
}

/// Keeps `fork` of this process waiting until it is dropped.
pub(crate) struct Held(&'static Page);

/// Keeps `fork` waiting, and others who would.
pub(crate) fn hold() -> Held {
    // Settles a child first.
    let _ = ProcessIdentity::current();
    Held::take(page())
}

impl Held {
    fn take(page: &'static Page) -> Self {
        // SAFETY: an initialised lock, or an emptied one, which is the same. It is never moved. The
        // call cannot fail: a thread takes this lock once at a time.
        unsafe { libc::pthread_mutex_lock(page.lock.get()) };
        Self(page)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: this thread has taken the lock.
        unsafe { libc::pthread_mutex_unlock(self.0.lock.get()) };
    }
}

fn page() -> &'static Page {
    let page = PAGE.load(Ordering::Acquire);
    // SAFETY: once there is a page it stays, and stays the same.
    unsafe { page.as_ref() }.unwrap_or_else(make_page)
}

#[cold]
fn make_page() -> &'static Page {
    let made = map_wiped().map_or(ptr::from_ref(&SPARE).cast_mut(), |page| {
        page.as_ptr().cast()
    });
    // SAFETY: a page of zeros is a valid one, and it is never given back.
    let page: &'static Page = unsafe { &*made };
    if page.generation.load(Ordering::Relaxed) == 0 {
        page.generation.store(new_generation(), Ordering::Relaxed);
    }
    // Release pairs with the acquire of those who find it: they see its generation.
    let first = PAGE.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire);
    match first {
        Ok(_) => {
            // Until this is done, a child notices by its page, as after a bare `clone(2)`.
            // SAFETY: the handlers are functions of this program; a library that is loaded takes
            // its own back when it is unloaded. Without memory for them it is as before.
            unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
            page
        }
        Err(other) => {
            if !ptr::eq(made, &SPARE) {
                // SAFETY: the page was mapped here, and nobody else knows it.
                unsafe { libc::munmap(made.cast(), PAGE_BYTES) };
            }
            // SAFETY: as in `page`.
            unsafe { &*other }
        }
    }
}

/// Enough for a page of any machine's.
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

fn new_generation() -> u64 {
    LAST_GENERATION.fetch_add(1, Ordering::Relaxed) + 1
}

/// Makes a child that came without the handler a process of its own.
#[cold]
fn settle(page: &'static Page) -> u64 {
    let _held = Held::take(page);
    match page.generation.load(Ordering::Relaxed) {
        0 => {
            table::give_up_unsettled();
            LAST_UNSETTLED.store(LAST_GENERATION.load(Ordering::Relaxed), Ordering::Relaxed);
            let generation = new_generation();
            page.generation.store(generation, Ordering::Relaxed);
            generation
        }
        // Another thread of the child did.
        generation => generation,
    }
}

extern "C" fn before() {
    std::mem::forget(hold());
}

extern "C" fn in_parent() {
    drop(Held(page()));
}

extern "C" fn in_child() {
    let page = page();
    // The kernel has emptied the page, unless it is the spare one.
    // SAFETY: this is the child's only thread, and the lock is one that nobody has from now on.
    unsafe { page.lock.get().write(libc::PTHREAD_MUTEX_INITIALIZER) };
    table::take_away();
    page.generation.store(new_generation(), Ordering::Relaxed);
}
