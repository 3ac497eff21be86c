//! What the host, the receiver and its children tell each other: packets of some words. All of them are this program,
//! in this version.

use std::fmt;

use chimaera_proto::shown::printable;

/// What a child is to do with a connection's socket, which comes beside the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildTask {
    /// Receive its next message, look at the files beside it, and answer.
    Receive,
    /// Hold it until it is killed. The files that are still in it end with the child.
    Close,
}

/// The number of a request, and what is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChildRequest {
    pub(super) number: u64,
    pub(super) task: ChildTask,
}

impl ChildRequest {
    pub(super) const BYTES: usize = 16;

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        two_words(self.number, u64::from(self.task == ChildTask::Close))
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let number = word(bytes, 0)?;
        let task = match word(bytes, 1)? {
            0 => ChildTask::Receive,
            _ => ChildTask::Close,
        };
        Some(Self { number, task })
    }
}

/// What a child tells the receiver before it takes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestTaken {
    /// Which child it is.
    pub(super) generation: u64,
    pub(super) request: ChildRequest,
}

impl RequestTaken {
    pub(super) const BYTES: usize = 8 + ChildRequest::BYTES;

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.generation.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.request.to_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            generation: word(bytes, 0)?,
            request: ChildRequest::from_bytes(bytes.get(8..)?)?,
        })
    }
}

/// What a child has found beside a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A file that nobody can make hang, which comes beside the answer.
    Harmless,
    /// The connection has no message any more.
    Nothing,
    /// There was no descriptor for the file.
    NoDescriptor,
    SeveralFiles,
    /// A file that is open by `O_PATH` only.
    PathOnly,
    Directory,
    CharacterDevice,
    Fifo,
    Socket,
    /// A file of the kernel's own kinds, and which.
    Special(Name),
    /// A file of a mount that the host does not have.
    ForeignMount,
    /// A file on a file system of this type, which may hang.
    FileSystem(Name),
    /// There is no `/proc` that could say what file system the file is on.
    Unknown,
}

impl Found {
    const SIMPLE: [Self; 11] = [
        Self::Harmless,
        Self::Nothing,
        Self::NoDescriptor,
        Self::SeveralFiles,
        Self::PathOnly,
        Self::Directory,
        Self::CharacterDevice,
        Self::Fifo,
        Self::Socket,
        Self::ForeignMount,
        Self::Unknown,
    ];
    const SPECIAL: u64 = 100;
    const FILE_SYSTEM: u64 = 101;

    fn code(self) -> u64 {
        match self {
            Self::Special(_) => Self::SPECIAL,
            Self::FileSystem(_) => Self::FILE_SYSTEM,
            simple => {
                let place = Self::SIMPLE.iter().position(|&other| other == simple);
                place.map_or(u64::MAX, |place| place as u64)
            }
        }
    }

    fn from_code(code: u64, name: Name) -> Option<Self> {
        match code {
            Self::SPECIAL => Some(Self::Special(name)),
            Self::FILE_SYSTEM => Some(Self::FileSystem(name)),
            _ => Self::SIMPLE.get(usize::try_from(code).ok()?).copied(),
        }
    }
}

impl fmt::Display for Found {
    /// What came beside a request, and why it is not taken.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Harmless => "a file",
            Self::Nothing => "no file any more",
            Self::NoDescriptor => "a file for which there was no descriptor",
            Self::SeveralFiles => return f.write_str("more than one file came beside a request"),
            Self::PathOnly => "a file that is open by O_PATH, which names it and no more",
            Self::Directory => "a directory",
            Self::CharacterDevice => "a character device",
            Self::Fifo => "a FIFO",
            Self::Socket => "a socket",
            Self::Special(name) => return write!(f, "{name} {BESIDE}, {WANTED}"),
            Self::ForeignMount => {
                return write!(
                    f,
                    "a file of a mount that the daemon does not have {BESIDE}: it belongs to another mount namespace, \
                     such as a container's, or was unmounted, so that nobody says whether the file can hang; {WANTED}"
                );
            }
            Self::FileSystem(name) => {
                return write!(
                    f,
                    "a file on a file system of type {name} {BESIDE}, and that may hang: use a file on a local disk, \
                     or let the daemon's operator trust that type (--allow-fs {name})"
                );
            }
            Self::Unknown => {
                return write!(
                    f,
                    "a file {BESIDE}, and the daemon has no /proc that says on which file system: only memory can be \
                     passed"
                );
            }
        };
        write!(f, "{what} {BESIDE}, {WANTED}")
    }
}

const BESIDE: &str = "came beside a request";
const WANTED: &str = "where only memory, regular files and block devices are taken";

/// A child's answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChildAnswer {
    pub(super) number: u64,
    pub(super) found: Found,
}

impl ChildAnswer {
    /// Number, code, and a name that may be empty.
    pub(super) const BYTES: usize = 16 + Name::BYTES;

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&two_words(self.number, self.found.code()));
        if let Found::Special(name) | Found::FileSystem(name) = self.found {
            bytes[16..].copy_from_slice(&name.bytes);
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut name = Name::default();
        let text = bytes.get(16..)?;
        text.iter()
            .take_while(|&&byte| byte != 0)
            .for_each(|&byte| name.push(byte));
        let number = word(bytes, 0)?;
        let found = Found::from_code(word(bytes, 1)?, name)?;
        Some(Self { number, found })
    }
}

/// What the receiver itself tells the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// The child that worked on this request has ended, in whatever way.
    Ended { request: u64 },
    /// The system gives no further process.
    NoProcess,
}

impl Note {
    pub(super) fn to_bytes(self) -> [u8; 8] {
        let number = match self {
            Self::Ended { request } => request,
            Self::NoProcess => u64::MAX,
        };
        number.to_ne_bytes()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(match word(bytes, 0)? {
            u64::MAX => Self::NoProcess,
            request => Self::Ended { request },
        })
    }
}

/// A short text without memory of its own, such as the name of a type of file systems. A longer one is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    bytes: [u8; Self::BYTES],
    len: usize,
}

impl Default for Name {
    fn default() -> Self {
        Self {
            bytes: [0; Self::BYTES],
            len: 0,
        }
    }
}

impl Name {
    const BYTES: usize = 48;

    pub(super) fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&String::from_utf8_lossy(self.bytes())))
    }
}

/// Two words in a row.
fn two_words(first: u64, second: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&first.to_ne_bytes());
    bytes[8..].copy_from_slice(&second.to_ne_bytes());
    bytes
}

/// The word at this index.
pub(super) fn word(bytes: &[u8], index: usize) -> Option<u64> {
    let word = bytes.get(8 * index..8 * index + 8)?;
    Some(u64::from_ne_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_they_are_written() {
        for task in [ChildTask::Receive, ChildTask::Close] {
            let request = ChildRequest { number: 7, task };
            assert_eq!(ChildRequest::from_bytes(&request.to_bytes()), Some(request));
            let taken = RequestTaken {
                generation: 5,
                request,
            };
            assert_eq!(RequestTaken::from_bytes(&taken.to_bytes()), Some(taken));
        }
        let mut name = Name::default();
        b"fuse.sshfs".iter().for_each(|&byte| name.push(byte));
        let named = [Found::Special(name), Found::FileSystem(name)];
        for found in Found::SIMPLE.into_iter().chain(named) {
            let answer = ChildAnswer { number: 1, found };
            assert_eq!(ChildAnswer::from_bytes(&answer.to_bytes()), Some(answer));
        }
        for note in [Note::Ended { request: 3 }, Note::NoProcess] {
            assert_eq!(Note::from_bytes(&note.to_bytes()), Some(note));
        }
        assert_eq!(ChildAnswer::from_bytes(&[0; 7]), None);
    }
}
