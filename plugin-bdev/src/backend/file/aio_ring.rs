//! The results of an AIO context, as the kernel maps them into the process.

use std::sync::atomic::{AtomicU32, Ordering};

use super::engine::DeviceResult;

const RING_MAGIC: u32 = 0xa10a_10a1;

/// `struct io_event` of `linux/aio_abi.h`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct IoEvent {
    pub(super) data: u64,
    /// Address of the operation's control block.
    pub(super) control_block: u64,
    pub(super) result: i64,
    result2: i64,
}

/// Head of `struct aio_ring` of the kernel's `fs/aio.c`; the events follow at `header_len`.
#[repr(C)]
struct RingHeader {
    id: u32,
    entries: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
    compatible_features: u32,
    incompatible_features: u32,
    header_len: u32,
}

const _: () = {
    assert!(size_of::<IoEvent>() == 32);
    assert!(size_of::<RingHeader>() == 32);
};

impl IoEvent {
    pub(super) const NONE: Self = Self {
        data: 0,
        control_block: 0,
        result: 0,
        result2: 0,
    };

    pub(super) fn result(&self) -> DeviceResult {
        DeviceResult {
            tag: self.data,
            result: self.result,
        }
    }
}

/// The results of a context, as the kernel maps them into the process.
pub(super) struct Ring {
    header: *const RingHeader,
    events: *const IoEvent,
    entries: u32,
}

// SAFETY: the ring belongs to its context, which any one thread at a time may use.
unsafe impl Send for Ring {}

impl Ring {
    /// The ring of a context, if it has the known layout.
    ///
    /// # Safety
    /// The context is alive, and must outlive the ring.
    pub(super) unsafe fn of(context: libc::c_ulong) -> Option<Self> {
        let header = context as *const RingHeader;
        // SAFETY: a context's id is the address at which the kernel mapped its ring, at least
        // one page. The fields read here do not change.
        let (magic, incompatible, header_len, entries) = unsafe {
            (
                (&raw const (*header).magic).read(),
                (&raw const (*header).incompatible_features).read(),
                (&raw const (*header).header_len).read(),
                (&raw const (*header).entries).read(),
            )
        };
        let len = size_of::<RingHeader>() + entries as usize * size_of::<IoEvent>();
        // A forked child has no use for it. A hint: whether it has it or not, it does nothing with it.
        // SAFETY: the ring is mapped in whole pages; this changes what children have of it.
        unsafe { libc::madvise(header.cast_mut().cast(), len, libc::MADV_DONTFORK) };
        let known = magic == RING_MAGIC
            && incompatible == 0
            && header_len as usize == size_of::<RingHeader>()
            && entries > 0;
        known.then(|| Self {
            header,
            // SAFETY: the events follow the header inside the mapping.
            events: unsafe { header.add(1) }.cast(),
            entries,
        })
    }

    /// Takes the events that are there.
    pub(super) fn take(&mut self, mut each: impl FnMut(&IoEvent)) {
        // SAFETY: the ring lives as long as its context (`of`). The two words are only accessed
        // as atomics: here, and by the kernel.
        let (head_word, tail_word) = unsafe { (&(*self.header).head, &(*self.header).tail) };
        // Acquire: pairs with the write barrier between the kernel's store of an event and its
        // store of the tail (`aio_complete`), so events before the tail are whole.
        let tail = tail_word.load(Ordering::Acquire) % self.entries;
        // Relaxed: nobody else stores the head.
        let mut head = head_word.load(Ordering::Relaxed) % self.entries;
        if head == tail {
            return;
        }
        while head != tail {
            // SAFETY: `head` is below the number of entries, which the kernel mapped; the event
            // was published by the tail, and the kernel does not write there again before the
            // head has moved past it.
            let event = unsafe { self.events.add(head as usize).read() };
            each(&event);
            head = (head + 1) % self.entries;
        }
        // Release: the events were read before the kernel sees their places free
        // (`user_refill_reqs_available` reads the head before it lets new operations in).
        head_word.store(head, Ordering::Release);
    }
}
