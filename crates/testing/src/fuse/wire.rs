//! What the kernel asks over `/dev/fuse`, and what it is answered: version 7.31 of the kernel's protocol
//! (`linux/fuse.h`), as far as one folder with one file needs it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// The version that is spoken. The kernel knows every older one.
const MAJOR: u32 = 7;
const MINOR: u32 = 31;

/// The most bytes of one write: what 32 pages hold, which is what the kernel sends without being told more.
pub(super) const MAX_WRITE_BYTES: usize = 128 * 1024;

/// Long enough for any request.
pub(super) const MAX_REQUEST_BYTES: usize = MAX_WRITE_BYTES + 4096;

/// The nodes: the folder, which the kernel knows, and the file.
pub(super) const FOLDER: u64 = 1;
pub(super) const FILE: u64 = 2;

const HEADER_BYTES: usize = 40;

/// What the kernel may ask. The numbers are the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FuseCall {
    /// Where a name in the folder leads.
    Lookup = 1,
    /// Nobody knows a node any more. Nothing is answered.
    Forget = 2,
    /// `stat`.
    GetAttributes = 3,
    /// `truncate`, `chmod`, `chown` and the like.
    SetAttributes = 4,
    /// Opening the file.
    Open = 14,
    /// Reading the file.
    Read = 15,
    /// Writing to it.
    Write = 16,
    /// `statfs`.
    Statfs = 17,
    /// The file was closed for the last time. Nobody waits for the answer.
    Release = 18,
    /// `fsync`.
    Sync = 20,
    /// `close`, which waits for the answer.
    Flush = 25,
    /// The first request of a mount.
    Init = 26,
    /// Opening the folder.
    OpenFolder = 27,
    /// The folder's entries.
    ListFolder = 28,
    /// The folder was closed.
    ReleaseFolder = 29,
    /// `access`.
    Access = 34,
    /// Whoever waits for an answer was sent a signal. Nothing is answered.
    Interrupt = 36,
    /// `ioctl`.
    Ioctl = 39,
    /// As [`FuseCall::Forget`], of several nodes.
    ForgetMany = 42,
    /// `fallocate`.
    Allocate = 43,
}

/// A request, as it was read from the device.
#[derive(Debug)]
pub(super) struct FuseRequest {
    bytes: Vec<u8>,
}

impl FuseRequest {
    /// What was read, unless it is no whole request.
    pub(super) fn new(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.to_vec();
        (bytes.len() >= HEADER_BYTES).then_some(Self { bytes })
    }

    pub(super) fn call(&self) -> u32 {
        self.u32_at(4)
    }

    pub(super) fn is(&self, call: FuseCall) -> bool {
        self.call() == call as u32
    }

    pub(super) fn node(&self) -> u64 {
        self.u64_at(16)
    }

    /// Whether the kernel waits for an answer.
    pub(super) fn is_answered(&self) -> bool {
        let unanswered = [FuseCall::Forget, FuseCall::ForgetMany, FuseCall::Interrupt];
        !unanswered.into_iter().any(|call| self.is(call))
    }

    /// The name that is looked up.
    pub(super) fn name(&self) -> &OsStr {
        let name = &self.bytes[HEADER_BYTES..];
        let end = name.iter().position(|&byte| byte == 0);
        OsStr::from_bytes(&name[..end.unwrap_or(name.len())])
    }

    /// Where a read or a write begins in the file.
    pub(super) fn offset(&self) -> u64 {
        self.u64_at(HEADER_BYTES + 8)
    }

    /// How many bytes a read is to give.
    pub(super) fn len(&self) -> usize {
        self.u32_at(HEADER_BYTES + 16) as usize
    }

    /// What a write is to write.
    pub(super) fn written(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES + 40..]
    }

    /// The size that the file is to have, if it is to have another.
    pub(super) fn new_size(&self) -> Option<u64> {
        const SIZE: u32 = 1 << 3;
        (self.u32_at(HEADER_BYTES) & SIZE != 0).then(|| self.u64_at(HEADER_BYTES + 16))
    }

    /// The answer: this error of the system's, or zero and what belongs to the request.
    pub(super) fn answer(&self, errno: i32, body: Fields) -> Vec<u8> {
        let len = 16 + body.bytes.len() as u32;
        let head = Fields::default().u32(len).u32((-errno).cast_unsigned());
        let mut answer = head.u64(self.u64_at(8)).bytes;
        answer.extend_from_slice(&body.bytes);
        answer
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_ne_bytes(std::array::from_fn(|byte| self.byte(at + byte)))
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from_ne_bytes(std::array::from_fn(|byte| self.byte(at + byte)))
    }

    /// A request of another version may be shorter: what it lacks is zero.
    fn byte(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }
}

/// The fields of an answer, one after another.
#[derive(Default)]
pub(super) struct Fields {
    bytes: Vec<u8>,
}

impl Fields {
    /// What was read of the file.
    pub(super) fn data(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// To [`FuseCall::Init`].
    pub(super) fn init() -> Self {
        let versions = Self::default().u32(MAJOR).u32(MINOR);
        // Nothing is read ahead, and nothing of what the kernel could do besides is asked for.
        let asked = versions.u32(0).u32(0);
        // So many may wait in the background, and from so many on the kernel calls it crowded.
        let counts = asked.u16(64).u16(48);
        counts.u32(MAX_WRITE_BYTES as u32).zeroes(40)
    }

    /// To [`FuseCall::Lookup`]. The kernel is to ask again each time.
    pub(super) fn entry(node: u64, size: u64, owner: u32) -> Self {
        let head = Self::default().u64(node).zeroes(32);
        head.attributes_of(node, size, owner)
    }

    /// To [`FuseCall::GetAttributes`] and [`FuseCall::SetAttributes`]. The kernel is to ask again each time.
    pub(super) fn attributes(node: u64, size: u64, owner: u32) -> Self {
        Self::default().zeroes(16).attributes_of(node, size, owner)
    }

    /// To [`FuseCall::Open`] and [`FuseCall::OpenFolder`]: every read and write is asked for, and none is served from
    /// the kernel's cache.
    pub(super) fn opened() -> Self {
        const DIRECT_IO: u32 = 1;
        Self::default().u64(0).u32(DIRECT_IO).u32(0)
    }

    /// To [`FuseCall::Write`].
    pub(super) fn written(len_bytes: usize) -> Self {
        Self::default().u32(len_bytes as u32).u32(0)
    }

    /// To [`FuseCall::Statfs`].
    pub(super) fn statfs() -> Self {
        const BLOCKS: u64 = 1 << 30;
        let blocks = Self::default().u64(BLOCKS).u64(BLOCKS).u64(BLOCKS);
        let files = blocks.u64(1).u64(0);
        files.u32(4096).u32(255).u32(4096).zeroes(28)
    }

    fn attributes_of(self, node: u64, size: u64, owner: u32) -> Self {
        let (size, mode) = match node {
            FOLDER => (0, libc::S_IFDIR | 0o755),
            _ => (size, libc::S_IFREG | 0o644),
        };
        let sizes = self.u64(node).u64(size).u64(size / 512);
        let times = sizes.zeroes(36);
        let owned = times.u32(mode).u32(1).u32(owner).u32(owner);
        owned.u32(0).u32(4096).u32(0)
    }

    fn u16(mut self, value: u16) -> Self {
        self.bytes.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.bytes.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.bytes.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn zeroes(mut self, count: usize) -> Self {
        self.bytes.resize(self.bytes.len() + count, 0);
        self
    }
}
