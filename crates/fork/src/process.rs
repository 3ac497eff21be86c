//! Which process this is, and how a child becomes one of its own: by a handler, or else with its first call.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::page::{ForkGuard, WipedPage, last_generation, new_generation};
use crate::registry::{self, Registration, Resource};

/// A process, to be compared with the calling one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessIdentity {
    generation: u64,
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
        // SAFETY: the page was made before this value.
        let page = unsafe { WipedPage::get_unchecked() };
        self.generation == page.generation.load(Ordering::Relaxed)
    }
}

/// Which process made something, and what the calling one has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The calling process made it.
    Here,
    /// An ancestor made it, and the handler has replaced here what it holds.
    Replaced,
    /// An ancestor made it, and no handler ran here: what it holds is still the ancestor's.
    Inherited,
}

impl Origin {
    pub(crate) fn of(registration: &Registration) -> Self {
        let generation = registration.generation;
        if ProcessIdentity::current().generation == generation {
            Self::Here
        } else if generation > LAST_INHERITED.load(Ordering::Relaxed) {
            Self::Replaced
        } else {
            Self::Inherited
        }
    }
}

/// Values of this generation and lower ones came here without the handler.
static LAST_INHERITED: AtomicU64 = AtomicU64::new(0);

/// Keeps `fork` of this process waiting, and others who would hold it off.
pub(crate) fn hold_off_fork() -> ForkGuard {
    // Settles a child first.
    let _ = ProcessIdentity::current();
    ForkGuard::take(page())
}

/// Enters something that children of this process shall not have.
///
/// # Errors
/// There is no memory for it.
pub(crate) fn register(guard: &ForkGuard, resource: Resource) -> io::Result<Registration> {
    registry::add(guard, resource, ProcessIdentity::current().generation)
}

fn page() -> &'static WipedPage {
    WipedPage::get().unwrap_or_else(make_page)
}

#[cold]
fn make_page() -> &'static WipedPage {
    WipedPage::make().map_or_else(
        |other| other,
        |page| {
            // Until this is done, a child notices by its page, as after a bare `clone(2)`.
            // SAFETY: the handlers are functions of this program; a library that is loaded takes
            // its own back when it is unloaded. Where there is no memory for them, the page alone tells.
            unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
            page
        },
    )
}

/// Makes a child in which no handler ran a process of its own.
#[cold]
fn settle(page: &'static WipedPage) -> u64 {
    let _guard = ForkGuard::take(page);
    match page.generation.load(Ordering::Relaxed) {
        0 => {
            registry::give_up_inherited();
            LAST_INHERITED.store(last_generation(), Ordering::Relaxed);
            let generation = new_generation();
            page.generation.store(generation, Ordering::Relaxed);
            generation
        }
        // Another thread of the child did.
        generation => generation,
    }
}

extern "C" fn before() {
    std::mem::forget(hold_off_fork());
}

extern "C" fn in_parent() {
    drop(ForkGuard::of_forgotten(page()));
}

extern "C" fn in_child() {
    let page = page();
    // The kernel has emptied the page, unless it is the spare one.
    // SAFETY: a child of `fork` has this thread alone.
    unsafe { page.reset_lock() };
    registry::take_away();
    page.generation.store(new_generation(), Ordering::Relaxed);
}
