//! What children shall not have, registered so that a child can read it whatever its parent's threads were doing.
//!
//! Only a thread that holds `fork` off changes the registry. A child's handler reads it while the parent holds `fork`
//! off. A child without a handler reads it once, and a thread of its parent may have been in the middle of a change: so
//! an entry's kind is stored last and cleared first, and such a child finds an entry whole or not at all. Chunks of the
//! registry are never given back.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use crate::page::{ForkGuard, PAGE_BYTES};

/// Something that a child shall not have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resource {
    /// A mapping, which children do not get (`MADV_DONTFORK`), with its length in bytes.
    Mapping { address: usize, len: usize },
    /// A file.
    File(libc::c_int),
    /// The address of an `AtomicU64` that is 0 in children.
    Word(usize),
}

const NOTHING: usize = 0;
const FILE: usize = usize::MAX;
const WORD: usize = usize::MAX - 1;

struct RegistryEntry {
    /// A mapping's length, or one of the constants above.
    kind: AtomicUsize,
    /// An address or a descriptor.
    value: AtomicUsize,
}

impl RegistryEntry {
    fn resource(&self) -> Option<Resource> {
        // Acquire pairs with the release in `add`, if a child sees what another thread did.
        let kind = self.kind.load(Ordering::Acquire);
        let value = self.value.load(Ordering::Relaxed);
        match kind {
            NOTHING => None,
            FILE => Some(Resource::File(value as libc::c_int)),
            WORD => Some(Resource::Word(value)),
            len => Some(Resource::Mapping {
                address: value,
                len,
            }),
        }
    }
}

/// As many as fit in a page beside a chunk's other fields.
const CHUNK_ENTRIES: usize = 254;

/// A page of entries. Zeros are a valid chunk, so it comes from `mmap` and not from the allocator, which a child
/// without a handler cannot rely on.
struct RegistryChunk {
    entries: [RegistryEntry; CHUNK_ENTRIES],
    used: AtomicUsize,
    next: AtomicPtr<RegistryChunk>,
}

const _: () = assert!(size_of::<RegistryChunk>() <= PAGE_BYTES);

impl RegistryChunk {
    fn make() -> Option<&'static Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address that the kernel chooses aliases nothing.
        let page = unsafe { libc::mmap(ptr::null_mut(), PAGE_BYTES, protection, flags, -1, 0) };
        // SAFETY: it is large enough and aligned for a chunk, zeros are a chunk, and it is never given
        // back.
        (page != libc::MAP_FAILED).then(|| unsafe { &*page.cast::<Self>() })
    }
}

static FIRST: AtomicPtr<RegistryChunk> = AtomicPtr::new(ptr::null_mut());

/// Where a resource stands in the registry of the process that made it.
#[derive(Debug)]
pub(crate) struct Registration {
    chunk: &'static RegistryChunk,
    entry: usize,
    /// The generation of that process.
    pub(crate) generation: u64,
}

impl std::fmt::Debug for RegistryChunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryChunk").finish_non_exhaustive()
    }
}

/// Registers a resource of the process with this generation.
///
/// # Errors
/// There is no memory for it.
pub(crate) fn add(_: &ForkGuard, resource: Resource, generation: u64) -> io::Result<Registration> {
    let mut link = &FIRST;
    let chunk = loop {
        // SAFETY: chunks are never given back.
        let Some(chunk) = (unsafe { link.load(Ordering::Acquire).as_ref() }) else {
            let chunk = RegistryChunk::make().ok_or(io::ErrorKind::OutOfMemory)?;
            link.store(ptr::from_ref(chunk).cast_mut(), Ordering::Release);
            break chunk;
        };
        if chunk.used.load(Ordering::Relaxed) < CHUNK_ENTRIES {
            break chunk;
        }
        link = &chunk.next;
    };
    let is_free = |entry: &RegistryEntry| entry.kind.load(Ordering::Relaxed) == NOTHING;
    let entry = chunk
        .entries
        .iter()
        .position(is_free)
        .expect("the chunk says that it has room");
    let (kind, value) = match resource {
        Resource::Mapping { address, len } => (len, address),
        Resource::File(file) => (FILE, file as usize),
        Resource::Word(address) => (WORD, address),
    };
    chunk.used.fetch_add(1, Ordering::Relaxed);
    chunk.entries[entry].value.store(value, Ordering::Relaxed);
    // Release pairs with the acquire in `RegistryEntry::resource`.
    chunk.entries[entry].kind.store(kind, Ordering::Release);
    Ok(Registration {
        chunk,
        entry,
        generation,
    })
}

/// Takes a resource out, in the process that made it.
pub(crate) fn remove(_: &ForkGuard, registration: &Registration) {
    let Registration { chunk, entry, .. } = registration;
    chunk.entries[*entry].kind.store(NOTHING, Ordering::Relaxed);
    chunk.used.fetch_sub(1, Ordering::Relaxed);
}

/// Takes every resource away from a child whose parent held `fork` off, and empties the child's registry. Calls
/// nothing but the kernel.
pub(crate) fn take_away() {
    let mut stand_in = StandIn::new();
    for_each_chunk(|chunk| {
        for entry in &chunk.entries {
            match entry.resource() {
                Some(Resource::Mapping { address, len }) => fill(address, len),
                Some(Resource::File(file)) => stand_in.replace(file),
                Some(Resource::Word(address)) => empty(address),
                None => {}
            }
            entry.kind.store(NOTHING, Ordering::Relaxed);
        }
        chunk.used.store(0, Ordering::Relaxed);
    });
    stand_in.close();
}

/// Takes from a child without a handler what can be taken there, and leaves it an empty registry. Files are left
/// alone: the child may share its descriptor table with its parent (`CLONE_FILES`).
pub(crate) fn give_up_inherited() {
    for_each_chunk(|chunk| {
        for entry in &chunk.entries {
            if let Some(Resource::Mapping { address, len }) = entry.resource() {
                fill(address, len);
            }
        }
    });
    // The counts of the old chunks may be wrong.
    FIRST.store(ptr::null_mut(), Ordering::Relaxed);
}

fn for_each_chunk(mut act: impl FnMut(&'static RegistryChunk)) {
    let mut link = &FIRST;
    // SAFETY: chunks are never given back.
    while let Some(chunk) = unsafe { link.load(Ordering::Acquire).as_ref() } {
        act(chunk);
        link = &chunk.next;
    }
}

/// Fills the address range of a mapping that this process did not get with private zeros, which cost nothing until
/// they are written. Another mapping that lies there by now is left alone.
fn fill(address: usize, len: usize) {
    let flags =
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    // Where the system does not overcommit memory, only an inaccessible mapping costs nothing.
    for protection in [libc::PROT_READ | libc::PROT_WRITE, libc::PROT_NONE] {
        // SAFETY: a new mapping where none is aliases nothing that is valid.
        let mapped = unsafe {
            libc::mmap(
                ptr::without_provenance_mut(address),
                len,
                protection,
                flags,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            continue;
        }
        if mapped.addr() != address {
            // Before Linux 4.17 the address is only a hint.
            // SAFETY: that mapping was made here, and nobody knows of it.
            unsafe { libc::munmap(mapped, len) };
        }
        return;
    }
}

/// Clears a word that the kernel has not emptied.
fn empty(address: usize) {
    let word = ptr::with_exposed_provenance::<AtomicU64>(address);
    // SAFETY: a registered word is an atomic, and mapped as long as it is registered.
    let word = unsafe { &*word };
    // Read first, since a write takes memory: the child gets a copy of the page.
    if word.load(Ordering::Relaxed) != 0 {
        word.store(0, Ordering::Relaxed);
    }
}

/// A file without meaning that takes the descriptor numbers of the files that a child shall not have: nothing that the
/// child's copies of their owners do with it affects anybody.
struct StandIn {
    /// Negative where there is none.
    file: libc::c_int,
    /// There is none because no descriptor number is free, so the first one to be replaced will do.
    lacks_number: bool,
    /// It has a number that was to be replaced, and stays open.
    is_in_place: bool,
}

impl StandIn {
    fn new() -> Self {
        let file = Self::make();
        let lacks_number =
            file < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EMFILE);
        Self {
            file,
            lacks_number,
            is_in_place: false,
        }
    }

    fn make() -> libc::c_int {
        // SAFETY: the call touches no memory of this process.
        unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }
    }

    fn replace(&mut self, file: libc::c_int) {
        if self.lacks_number {
            self.lacks_number = false;
            // SAFETY: the file's owner's copy here is not used any more.
            unsafe { libc::close(file) };
            self.file = Self::make();
            self.is_in_place = self.file == file;
            if self.is_in_place {
                return;
            }
        }
        // SAFETY: the number is that of a file whose owner's copy here is not used any more, and stays
        // that of a file. Without a stand-in the call fails, and the child has the file as a child
        // without a handler has it.
        unsafe { libc::dup3(self.file, file, libc::O_CLOEXEC) };
    }

    fn close(self) {
        if self.file >= 0 && !self.is_in_place {
            // SAFETY: the file was made here, and its number is nobody's.
            unsafe { libc::close(self.file) };
        }
    }
}
