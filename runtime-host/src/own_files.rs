//! The files that this process needs for itself, which no pool may have: what a pool writes there would be the end of
//! the process, or of what it tells its operator.
//!
//! They are its standard streams (a log is one of them), the locks beside its sockets, the program and libraries that
//! are mapped into it, and the libraries of modules, of which it runs copies. Files that an application which embeds
//! the host has open are not known here.

use std::ffi::{OsStr, c_void};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use chimaera_fork::PerProcess;
use nix::sys::stat::{fstat, makedev};
use parking_lot::Mutex;

use crate::file_id::{FileId, id_of};

/// The paths of those that are not mapped. A forked child has none of its parent's.
static PATHS: PerProcess<Mutex<Vec<PathBuf>>> = PerProcess::new(Mutex::default);

/// [`chimaera_chimod::abi::HostVTable::is_own_file`].
pub(crate) unsafe extern "C" fn is_own_file(_: *const c_void, device: u64, inode: u64) -> u32 {
    // A panic could not leave this function.
    let is_own = std::panic::catch_unwind(|| is_own((device, inode)));
    u32::from(is_own.unwrap_or(true))
}

fn is_own(file: FileId) -> bool {
    is_stream(file) || is_at_path(file) || is_mapped(file)
}

fn is_stream(file: FileId) -> bool {
    let is_it = |stream: &dyn AsFd| {
        let found = fstat(stream.as_fd());
        found.is_ok_and(|found| (found.st_dev, found.st_ino) == file)
    };
    is_it(&std::io::stdin()) || is_it(&std::io::stdout()) || is_it(&std::io::stderr())
}

fn is_at_path(file: FileId) -> bool {
    // Looking at a path may block.
    let paths = PATHS.get().lock().clone();
    paths.iter().any(|path| is_named(file, path))
}

fn is_named(file: FileId, path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|named| id_of(&named) == file)
}

/// Whether the file is mapped. The list of mappings names it by device and inode, and by its path: on some file systems
/// the device there is another one than files say.
fn is_mapped(file: FileId) -> bool {
    // Where there is no /proc, nothing can be said.
    let Ok(mappings) = std::fs::read("/proc/self/maps") else {
        return false;
    };
    let mut last_path: &[u8] = b"";
    mappings.split(|&byte| byte == b'\n').any(|line| {
        let Some((device, inode, path)) = parse(line) else {
            return false;
        };
        // A library has several mappings in a row. Memory of clients, of which there may be much, has no path.
        if !path.starts_with(b"/") || path.starts_with(b"/memfd:") || path == last_path {
            return false;
        }
        last_path = path;
        (device, inode) == file || is_named(file, Path::new(OsStr::from_bytes(path)))
    })
}

/// Device, inode and path of a line of the list of mappings.
fn parse(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    // Addresses, permissions and offset come first.
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let text = |field: Option<&[u8]>| Some(String::from_utf8_lossy(field?).into_owned());
    let device = text(fields.nth(3))?;
    let (major, minor) = device.split_once(':')?;
    let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let device = makedev(hex(major)?, hex(minor)?);
    let inode = text(fields.next())?.parse().ok()?;
    Some((device, inode, fields.next()?.trim_ascii_start()))
}

/// Has what lies at a path count as this process's own, until this is dropped.
#[derive(Debug)]
pub(crate) struct OwnPath(PathBuf);

impl OwnPath {
    pub(crate) fn new(path: &Path) -> Self {
        PATHS.get().lock().push(path.to_path_buf());
        Self(path.to_path_buf())
    }
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        let mut paths = PATHS.get().lock();
        if let Some(index) = paths.iter().position(|path| *path == self.0) {
            paths.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_the_process_runs_or_names_is_its_own_and_nothing_else() {
        let program = std::env::current_exe()
            .and_then(File::open)
            .expect("it runs");
        let id = |file: &File| id_of(&file.metadata().expect("it is open"));
        assert!(is_own(id(&program)));
        let library = std::fs::read_to_string("/proc/self/maps").expect("a list");
        let library = library
            .split_whitespace()
            .find(|word| word.contains("libc.so"));
        if let Some(library) = library {
            assert!(
                is_own(id(&File::open(library).expect("it is there"))),
                "{library}"
            );
        }
        let other = tempfile::NamedTempFile::new().expect("a file");
        assert!(!is_own(id(other.as_file())));
        let own = OwnPath::new(other.path());
        assert!(is_own(id(other.as_file())));
        drop(own);
        assert!(!is_own(id(other.as_file())));
    }

    #[test]
    fn a_line_of_the_list_of_mappings_is_read() {
        let line = b"7f0-7f1 r-xp 00001000 fe:01 1234                       /usr/lib/a b.so";
        let expected: (u64, u64, &[u8]) = (makedev(0xfe, 1), 1234, b"/usr/lib/a b.so");
        assert_eq!(parse(line), Some(expected));
        for other in [&b""[..], b"7f0-7f1 rw-p 0 00:00 0"] {
            assert!(parse(other).is_none_or(|(.., path)| path.is_empty()));
        }
    }
}
