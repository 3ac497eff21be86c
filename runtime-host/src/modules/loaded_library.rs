//! Loaded libraries: sealed copies in memory, each loaded once.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use chimaera_fork::PerProcess;
use chimaera_proto::shown::brief;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use parking_lot::Mutex;

/// A library in use, and the memory that it was loaded from.
#[derive(Debug)]
pub(crate) struct LoadedLibrary {
    pub(crate) library: Library,
    /// Stays open. The loader identifies the library by the path of this descriptor, and would take another library
    /// under the same number for this one. The library's symbols, for a backtrace for example, are found by that path,
    /// too.
    copy: File,
    len: usize,
}

/// Every library that any host of this process has loaded. None is unloaded: see `library`. A library that turned out
/// to be unusable is here as well, so that another request does not load it again.
static LOADED: PerProcess<Mutex<Vec<Arc<LoadedLibrary>>>> = PerProcess::new(Mutex::default);

/// Why a library was not loaded.
pub(crate) enum LoadError {
    /// There is no memory for the copy.
    Copy(io::Error),
    /// The loader does not take the library.
    Refused(String),
}

impl LoadedLibrary {
    /// The library with these bytes, which were examined.
    pub(crate) fn of(bytes: &[u8], name: &str) -> Result<Arc<Self>, LoadError> {
        let mut all = LOADED.get().lock();
        if let Some(loaded) = all.iter().find(|loaded| loaded.is_of(bytes)) {
            return Ok(Arc::clone(loaded));
        }
        let copy = seal_copy(bytes, name).map_err(LoadError::Copy)?;
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        // SAFETY: loading runs the library's initialisers, and using it runs its code. The operator
        // put it into a plugin folder and so trusts it; what can go wrong by accident (truncation,
        // another program's library, another version) was ruled out by `library::examine`, of these bytes, which
        // nobody can change any more.
        // A missing symbol is found now: with lazy binding the first call would end the process.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|error| LoadError::Refused(refusal(&error, bytes)))?;
        let loaded = Arc::new(Self {
            library,
            copy,
            len: bytes.len(),
        });
        all.push(Arc::clone(&loaded));
        Ok(loaded)
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.len as u64
    }

    /// Whether this was loaded from these bytes.
    pub(crate) fn is_of(&self, bytes: &[u8]) -> bool {
        const CHUNK_BYTES: usize = 64 * 1024;
        let mut chunk = vec![0; CHUNK_BYTES];
        self.len == bytes.len()
            && bytes.chunks(CHUNK_BYTES).zip(0..).all(|(expected, index)| {
                let chunk = &mut chunk[..expected.len()];
                let offset = index * CHUNK_BYTES as u64;
                self.copy.read_exact_at(chunk, offset).is_ok() && chunk == expected
            })
    }
}

/// A copy in memory that nobody can change, under the library's name in `/proc/PID/maps`.
fn seal_copy(bytes: &[u8], name: &str) -> io::Result<File> {
    let name = format!("lib{name}_runtime.so\0");
    let name = std::ffi::CStr::from_bytes_with_nul(name.as_bytes())
        .map_err(|_| io::ErrorKind::InvalidInput)?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Mapping a file needs no right to execute it as a program, and a system may forbid memory files that have that
    // right (`vm.memfd_noexec`). A kernel that does not know this flag forbids nothing.
    let no_program = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let copy: OwnedFd = match memfd_create(name, flags | no_program) {
        Err(Errno::EINVAL) => memfd_create(name, flags)?,
        created => created?,
    };
    let mut copy = File::from(copy);
    copy.write_all(bytes)?;
    let seals = SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SEAL;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(copy)
}

/// Why the loader refuses a library with these bytes.
fn refusal(error: &libloading::Error, bytes: &[u8]) -> String {
    let refusal = format!("cannot be loaded: {}", reason(error));
    if bytes.windows(ORIGIN.len()).any(|window| window == ORIGIN) {
        return format!(
            "{refusal} (a plugin is loaded from a copy in memory, so libraries that it looks for beside \
             itself, by $ORIGIN in its run path, are not found: link them into it, or install them \
             where the system looks)"
        );
    }
    refusal
}

/// In a library's run path: the folder in which the library lies.
const ORIGIN: &[u8] = b"$ORIGIN";

/// What the loader said. The error by itself says only which of the loader's functions failed.
pub(crate) fn reason(error: &libloading::Error) -> String {
    let source = std::error::Error::source(error);
    let said = source.map_or_else(|| error.to_string(), ToString::to_string);
    // It contains names from the library, which have no limit.
    brief(&said).into_owned()
}
