//! The file that a library was loaded from, which may be another one by now.
//!
//! A loaded library stays in use as long as the process lives. Whoever builds a module anew and makes a pool of it has
//! to be told that the pool uses the old library.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use parking_lot::Mutex;

use super::loaded_library::LoadedLibrary;
use crate::own_files::OwnPath;

/// The most bytes that a library may have. It is held in memory, for a moment twice.
pub(crate) const MAX_LIBRARY_BYTES: u64 = 1 << 30;

/// The first bytes of an ELF file.
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";

/// Opens what should be a library. Opening a pipe in its place does not wait.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    File::options().read(true).custom_flags(flags).open(path)
}

/// Reads a regular file that should be a library: whole if it begins as an ELF file, else only its beginning. `None` if
/// it has more bytes than a library may have.
pub(crate) fn read(mut file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.by_ref()
        .take(ELF_MAGIC.len() as u64)
        .read_to_end(&mut bytes)?;
    if bytes != ELF_MAGIC {
        return Ok(Some(bytes));
    }
    let len = file.metadata()?.len();
    if len > MAX_LIBRARY_BYTES {
        return Ok(None);
    }
    bytes.reserve_exact(len as usize);
    // The file may grow meanwhile.
    file.take(MAX_LIBRARY_BYTES).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Identifies a file and its content without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    /// The stamp of the file at a path, if there is one.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().as_ref().map(Self::of)
    }

    pub(crate) fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// A file and the library that was loaded from it.
#[derive(Debug)]
pub(crate) struct LibraryFile {
    path: PathBuf,
    loaded: Arc<LoadedLibrary>,
    /// The file's stamp when it was last read, and whether it held the loaded library then.
    last: Mutex<(FileStamp, bool)>,
    _own: OwnPath,
}

impl LibraryFile {
    /// `stamp` was taken before the file was read.
    pub(crate) fn new(path: &Path, loaded: Arc<LoadedLibrary>, stamp: FileStamp) -> Self {
        Self {
            path: path.to_path_buf(),
            loaded,
            last: Mutex::new((stamp, true)),
            _own: OwnPath::new(path),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file at the path holds the library that was loaded from there. Reads the file once after each
    /// change.
    pub(crate) fn is_as_loaded(&self) -> bool {
        let Some(stamp) = FileStamp::at(&self.path) else {
            return false;
        };
        let mut last = self.last.lock();
        if last.0 != stamp {
            *last = (stamp, self.holds_the_same(stamp.size));
        }
        last.1
    }

    fn holds_the_same(&self, size: u64) -> bool {
        size == self.loaded.len_bytes()
            && open(&self.path).is_ok_and(|file| {
                file.metadata().is_ok_and(|file| file.is_file())
                    && read(&file)
                        .is_ok_and(|bytes| bytes.is_some_and(|bytes| self.loaded.is_of(&bytes)))
            })
    }
}
