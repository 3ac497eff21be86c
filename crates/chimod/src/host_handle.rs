//! The host, as a container calls it.

use std::fmt;

use chimaera_proto::ModuleError;

use crate::abi::{HostVTable, LentBytes};
use crate::failing_call::call;

/// Severity of a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Level {
    /// Something failed that should not have.
    Error = 1,
    /// Something works, but not as its user may expect.
    Warning = 2,
    /// Something happened that an operator wants to see.
    Info = 3,
    /// Something that only a developer wants to see.
    Debug = 4,
}

/// What a container takes that its host counts: a user may have only so much of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum HostResource {
    /// Bytes of memory of the host's process, whether they are written or not.
    MemoryBytes = 1,
    /// Operations of the kernel's asynchronous I/O that may be in flight.
    IoDepth = 2,
    /// File descriptors of the host's process.
    Descriptors = 3,
    /// Bytes of address space of the host's process, besides those that are counted as memory.
    AddressBytes = 4,
    /// Rings of io_uring.
    Rings = 5,
}

impl HostResource {
    /// The resource with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::MemoryBytes,
            2 => Self::IoDepth,
            3 => Self::Descriptors,
            4 => Self::AddressBytes,
            5 => Self::Rings,
            _ => return None,
        })
    }
}

/// The host of a container: a copyable handle.
#[derive(Clone, Copy)]
pub struct Host {
    table: *const HostVTable,
    speaker: u64,
}

// SAFETY: the table may be used from any thread; see `HostVTable`.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

impl Host {
    /// Takes a host's table.
    ///
    /// # Safety
    /// The table must be valid, of this version, and outlive every copy of the handle: safe code may
    /// keep one for ever.
    #[must_use]
    pub const unsafe fn from_table(table: *const HostVTable) -> Self {
        Self { table, speaker: 0 }
    }

    /// The same host, for the container that has this number there.
    pub(crate) const fn spoken_to_by(self, speaker: u64) -> Self {
        Self { speaker, ..self }
    }

    pub(crate) fn table(self) -> &'static HostVTable {
        // SAFETY: `from_table`'s caller promises that the table outlives every handle, and the
        // reference is only used during calls that a handle makes.
        unsafe { &*self.table }
    }

    /// Writes a line to the host's log, which puts the module, the pool and its id before it. Any thread; does not wait
    /// until the line is written. Characters that are not visible, such as line ends, are escaped. This allocates, and
    /// takes a lock for a moment, so it does not belong on a worker's busy path.
    pub fn log(self, level: Level, text: impl fmt::Display) {
        let text = text.to_string();
        let table = self.table();
        // SAFETY: the host's function takes any text for the time of the call.
        unsafe {
            let text = LentBytes::new(text.as_bytes());
            (table.log)(table.context, self.speaker, level as u32, text);
        };
    }

    /// Tells the host that the current thread works for this container from now on. To be called first on a thread that
    /// a container starts: the log then names the pool if the thread panics, and not only the module. Does not block.
    pub fn adopt_thread(self) {
        let table = self.table();
        // SAFETY: the host's function may be called on any thread.
        unsafe { (table.adopt_thread)(table.context, self.speaker) };
    }

    /// Whether the process itself needs this file, of this device and inode: its log, its locks, its programs and
    /// libraries. No pool may have such a file, whoever asks. Not for workers: it may block.
    #[must_use]
    pub fn is_own_file(self, device: u64, inode: u64) -> bool {
        let table = self.table();
        // SAFETY: the host's function may be called on any thread but a worker.
        unsafe { (table.is_own_file)(table.context, device, inode) != 0 }
    }

    /// Counts what this container is about to take, in the account of whoever has the pool, until the container is
    /// destroyed. To be called in [`Container::create`](crate::Container::create), before the resource is taken. Not
    /// for workers; does not block.
    ///
    /// # Errors
    /// [`Status::LimitReached`](chimaera_proto::Status::LimitReached), with a text for whoever asked for the pool. Then
    /// nothing was counted, and the container must not take it.
    pub fn charge(self, resource: HostResource, amount: u64) -> Result<(), ModuleError> {
        let table = self.table();
        call(|error| {
            // SAFETY: the host's function takes any number, and the sink is valid during the call.
            unsafe { (table.charge)(table.context, self.speaker, resource as u32, amount, error) }
        })
    }

    /// Has the host log a panic of this thread. `place` is where it happened, and empty where it was caught; `thread`
    /// is the thread's name, and empty if this library does not know one.
    pub(crate) fn panicked(self, place: &str, thread: &str, text: &str) {
        let table = self.table();
        // SAFETY: the host's function takes any texts for the time of the call.
        unsafe {
            let [place, thread, text] =
                [place, thread, text].map(|text| LentBytes::new(text.as_bytes()));
            (table.panicked)(table.context, self.speaker, place, thread, text);
        };
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}
