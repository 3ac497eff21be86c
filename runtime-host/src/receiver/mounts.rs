//! Which file system a file is on, by what the kernel lists: no file system is asked.

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::read;

use super::messages::Name;

/// The mount that an open file belongs to, by the number that the kernel gives it. While the file is open, no other
/// mount gets that number.
///
/// # Errors
/// There is no `/proc`, or it does not say.
pub(super) fn mount_of(file: RawFd) -> nix::Result<u64> {
    let mut path = [0; 64];
    // It fits, and ends in a zero.
    let _ = write!(&mut path[..63], "/proc/self/fdinfo/{file}");
    let info = open_listing(&path)?;
    // The number comes after position and flags.
    let mut text = [0; 256];
    let len = read(&info, &mut text)?;
    number_after(&text[..len], b"mnt_id:").ok_or(Errno::ENODATA)
}

/// The number that follows `word` in a text.
fn number_after(text: &[u8], word: &[u8]) -> Option<u64> {
    let begin = text.windows(word.len()).position(|found| found == word)?;
    let rest = &text[begin + word.len()..];
    let rest = rest.trim_ascii_start();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(None, |number: Option<u64>, digit| {
        let digit = u64::from(digit - b'0');
        number.unwrap_or(0).checked_mul(10)?.checked_add(digit)
    })
}

/// The type of the file system that is mounted there; `None` if this process does not have that mount.
///
/// # Errors
/// There is no `/proc`.
pub(super) fn type_of(mount: u64) -> nix::Result<Option<Name>> {
    let list = open_listing(b"/proc/self/mountinfo\0")?;
    let mut scan = Scan::for_mount(mount);
    let mut piece = [0; 4096];
    loop {
        let len = read(&list, &mut piece)?;
        if len == 0 {
            return Ok(None);
        }
        for &byte in &piece[..len] {
            if scan.take(byte) {
                return Ok(Some(scan.name));
            }
        }
    }
}

fn open_listing(path: &[u8]) -> nix::Result<OwnedFd> {
    let path = std::ffi::CStr::from_bytes_until_nul(path).map_err(|_| Errno::EINVAL)?;
    let opened = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
    if !matches!(opened, Err(Errno::EACCES)) {
        return opened;
    }
    // Before Linux 5.14 a process that is closed to others may not read this of itself.
    nix::sys::prctl::set_dumpable(true)?;
    open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
}

/// Reads a list of mounts byte by byte: lines may be long. A line begins with the mount's number; the type comes after
/// a field that is a dash alone. Blanks within fields are written otherwise.
struct Scan {
    wanted: u64,
    field: Field,
    number: u64,
    name: Name,
    /// Bytes of the current field, as far as it may be the dash.
    seen: usize,
    is_dash: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Number,
    Before,
    Type,
    Rest,
}

impl Scan {
    fn for_mount(wanted: u64) -> Self {
        Self {
            wanted,
            field: Field::Number,
            number: 0,
            name: Name::default(),
            seen: 0,
            is_dash: true,
        }
    }

    /// Takes the next byte. Returns true once `name` is the type that is looked for.
    fn take(&mut self, byte: u8) -> bool {
        match (byte, self.field) {
            (b'\n', field) => {
                let is_found = field == Field::Type && self.number == self.wanted;
                if !is_found {
                    *self = Self::for_mount(self.wanted);
                }
                return is_found;
            }
            (b' ', Field::Type) => {
                self.field = Field::Rest;
                return self.number == self.wanted;
            }
            (b' ', Field::Before) if self.is_dash && self.seen == 1 => self.field = Field::Type,
            (b' ', Field::Number) => self.field = Field::Before,
            (b'0'..=b'9', Field::Number) => {
                let digit = u64::from(byte - b'0');
                self.number = self.number.wrapping_mul(10).wrapping_add(digit);
            }
            (_, Field::Type) => self.name.push(byte),
            _ => {}
        }
        if byte == b' ' {
            (self.seen, self.is_dash) = (0, true);
        } else {
            self.seen += 1;
            self.is_dash &= byte == b'-';
        }
        false
    }
}

/// The type of the file system that an open file is on; `None` if this process does not have its mount.
///
/// # Errors
/// There is no `/proc`, or it does not say.
pub(super) fn type_of_file(file: &impl AsRawFd) -> nix::Result<Option<Name>> {
    type_of(mount_of(file.as_raw_fd())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str, mount: u64) -> Option<String> {
        let mut scan = Scan::for_mount(mount);
        let found = text.bytes().any(|byte| scan.take(byte));
        found.then(|| String::from_utf8_lossy(scan.name.bytes()).into_owned())
    }

    #[test]
    fn a_list_of_mounts_says_the_type_of_each() {
        let list = "\
            22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
            23 22 0:21 / /a\\040-\\040b rw - fuse.sshfs somebody@there:/x rw,user_id=0\n\
            234 22 0:30 /- /-- rw - tmpfs - rw\n\
            24 22 0:31 / /proc rw shared:2 master:3 - proc proc rw\n";
        let types = [
            (22, "ext4"),
            (23, "fuse.sshfs"),
            (234, "tmpfs"),
            (24, "proc"),
        ];
        for (mount, name) in types {
            assert_eq!(scan(list, mount).as_deref(), Some(name), "{mount}");
        }
        for absent in [1, 2, 3, 254, 0] {
            assert_eq!(scan(list, absent), None, "{absent}");
        }
        assert_eq!(scan("", 1), None);
        assert_eq!(scan("7 1 0:1 / / rw - ext4", 7), None, "half a line");
    }

    #[test]
    fn a_number_is_what_follows_its_word() {
        let text = b"pos:\t0\nflags:\t0100002\nmnt_id:\t31\nino:\t7\n";
        assert_eq!(number_after(text, b"mnt_id:"), Some(31));
        assert_eq!(number_after(text, b"absent:"), None);
        assert_eq!(number_after(b"mnt_id:\tx", b"mnt_id:"), None);
    }

    #[test]
    fn a_file_of_proc_is_on_proc() {
        let file = std::fs::File::open("/proc/self/maps").expect("it is there");
        let name = type_of_file(&file).expect("listed").expect("a mount");
        assert_eq!(name.bytes(), b"proc");
        let (pipe, _writer) = std::io::pipe().expect("a pipe");
        assert!(type_of_file(&pipe).expect("listed").is_none());
    }
}
