//! What children shall not have, where a child can read it whatever its parent was at.
//!
//! The table is changed by whoever holds `fork` off, and read by the child's handler, whose parent
//! has held it off; and once by a child without a handler, whose parent may have been in the middle
//! of a change. To that one an entry says nothing, or all that is to be known of it: its kind is
//! stored last, and taken back first. Chunks of the table are never given back.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use crate::page::{ForkGuard, PAGE_BYTES};

/// Something that a child shall not have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resource {
    /// A mapping with so many bytes, which children do not get (`MADV_DONTFORK`).
    Mapping { address: usize, len: usize },
    /// A file.
    File(libc::c_int),
    /// An `AtomicU64` that is 0 in children.
    Word(usize),
}

const NOTHING: usize = 0;
const FILE: usize = usize::MAX;
const WORD: usize = usize::MAX - 1;

struct RegistryEntry {
    /// What it is: a mapping's length, or one of the above.
    kind: AtomicUsize,
    /// Its address or number.
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

/// As many as fit in a page with what else a chunk has.
const CHUNK_ENTRIES: usize = 254;

/// Valid with zeros, so that it needs no allocator, of which a child without a handler cannot be sure.
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

/// An item's place in the table of the process that made it.
#[derive(Debug)]
pub(crate) struct Registration {
    chunk: &'static RegistryChunk,
    entry: usize,
    /// That of the process.
    pub(crate) generation: u64,
}

impl std::fmt::Debug for RegistryChunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryChunk").finish_non_exhaustive()
    }
}

/// Enters an item.
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

/// Takes an item out, in the process that made it.
pub(crate) fn remove(_: &ForkGuard, registration: &Registration) {
    let Registration { chunk, entry, .. } = registration;
    chunk.entries[*entry].kind.store(NOTHING, Ordering::Relaxed);
    chunk.used.fetch_sub(1, Ordering::Relaxed);
}

/// Takes everything away from a child whose parent held `fork` off, and empties its table. Calls
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

/// Takes from a child without a handler what can be taken there, and leaves it an empty table. Its
/// files may be in a table that it shares with its parent (`CLONE_FILES`), so they are left alone.
pub(crate) fn give_up_inherited() {
    for_each_chunk(|chunk| {
        for entry in &chunk.entries {
            if let Some(Resource::Mapping { address, len }) = entry.resource() {
                fill(address, len);
            }
        }
    });
    // Its counts may be wrong.
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

/// Fills the place of a mapping that this process did not get with private zeros, which cost nothing
/// until they are written. What has come to lie there meanwhile is left alone.
fn fill(address: usize, len: usize) {
    let flags =
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    // Where memory is not to be promised beyond what there is, only what cannot be touched is free.
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
            // Before Linux 4.17 the flag is a wish.
            // SAFETY: that mapping was made here, and nobody knows of it.
            unsafe { libc::munmap(mapped, len) };
        }
        return;
    }
}

/// Empties a word where the kernel has not.
fn empty(address: usize) {
    let word = ptr::with_exposed_provenance::<AtomicU64>(address);
    // SAFETY: a word in the table is mapped as long as it is there, and an atomic.
    let word = unsafe { &*word };
    // Looked at first: what is written takes memory.
    if word.load(Ordering::Relaxed) != 0 {
        word.store(0, Ordering::Relaxed);
    }
}

/// A file without meaning, to stand under the numbers of those that a child shall not have: whatever
/// the child's copies of their owners do with them, it concerns nobody.
struct StandIn {
    /// Negative where there is none.
    file: libc::c_int,
    /// There is none only for want of a number, so one of those that go will do.
    lacks_number: bool,
    /// It lies under a number that is to be replaced, and stays there.
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
