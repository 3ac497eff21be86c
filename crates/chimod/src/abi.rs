//! What crosses between host and plugin: `repr(C)` data and function pointers.
//!
//! Calls into a container, and what the host promises about them:
//!
//! | function | thread | may block | who completes |
//! |---|---|---|---|
//! | `create`, `pool_id`, `was_opened`, `incarnation`, `permissions`, `set_permissions`, `create_again`, `flush`,
//! `destroy` | control side | yes | – |
//! | `submit`, `prefetch`, `poll`, `wake_fd` | a worker | no | the plugin, once per task |
//!
//! - `submit`, `poll` and `wake_fd` get the index of their worker.
//! - On one worker, one call at a time: a plugin is never re-entered there. On different workers,
//!   and against the control side, calls run at the same time.
//! - `pool_id`, `was_opened`, `incarnation` and `permissions` come right after `create`, once each and in this order,
//!   before any other call.
//! - `destroy` comes last, after every task has completed and no other call is running.
//! - Every function but `prefetch` must be there; a container that has nothing to do in one returns at
//!   once.
//! - A task's buffer stays mapped until the task completes, even if its client dies.

use std::ffi::c_void;

use chimaera_proto::Permissions;
use chimaera_proto::rights::MODE_BITS;
use chimaera_proto::task::{ARGUMENT_COUNT, VALUE_COUNT};

use crate::methods::LentMethods;

/// Version of everything in this module. A host accepts only plugins of its own version.
pub const ABI_VERSION: u32 = 9;

/// First word of a module's table: "CHIMODv\0".
pub const MODULE_MAGIC: u64 = u64::from_le_bytes(*b"CHIMODv\0");

/// First word of a host's table: "CHIHOSTv".
pub const HOST_MAGIC: u64 = u64::from_le_bytes(*b"CHIHOSTv");

/// Prefix of the symbol under which a library exports its module's table; its name follows.
pub const SYMBOL_PREFIX: &str = "CHIMAERA_CHIMOD_";

/// The first bytes of a table. They have the same layout in every version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`MODULE_MAGIC`] or [`HOST_MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`] of the side that made the table.
    pub abi_version: u32,
    /// Bytes of the whole table.
    pub size: u32,
}

/// Why a module's table cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IncompatibleTable {
    /// The symbol exists and is something else.
    #[error(
        "its module table does not start as one (first word {0:#018x}): rebuild it with the SDK of this host's release"
    )]
    Magic(u64),
    /// Built with another version of the SDK.
    #[error(
        "it was built for plugin ABI version {0}, this host has version {ABI_VERSION}: rebuild it \
         with the SDK of this host's release"
    )]
    Version(u32),
    /// The version is the same and the size is not: somebody changed the SDK without changing its version.
    #[error(
        "its table has {found} bytes where plugin ABI version {ABI_VERSION} has {expected} in this host: rebuild it \
         with the SDK of this host's release"
    )]
    Size {
        /// Bytes that the table claims.
        found: u32,
        /// Bytes of this version's table.
        expected: u32,
    },
}

impl Header {
    /// The header of a table of type `T`.
    #[must_use]
    pub const fn of<T>(magic: u64) -> Self {
        Self {
            magic,
            abi_version: ABI_VERSION,
            size: size_of::<T>() as u32,
        }
    }

    /// Whether the table behind this header is a `T` of this version.
    ///
    /// # Errors
    /// See [`IncompatibleTable`].
    pub const fn check<T>(&self, magic: u64) -> Result<(), IncompatibleTable> {
        if self.magic != magic {
            return Err(IncompatibleTable::Magic(self.magic));
        }
        if self.abi_version != ABI_VERSION {
            return Err(IncompatibleTable::Version(self.abi_version));
        }
        let expected = size_of::<T>() as u32;
        if self.size != expected {
            return Err(IncompatibleTable::Size {
                found: self.size,
                expected,
            });
        }
        Ok(())
    }
}

/// Bytes that the receiver only reads, during the call.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct LentBytes {
    /// First byte.
    pub data: *const u8,
    /// How many.
    pub len: usize,
}

impl LentBytes {
    /// Lends a slice for the time of a call.
    #[must_use]
    pub const fn new(bytes: &[u8]) -> Self {
        Self {
            data: bytes.as_ptr(),
            len: bytes.len(),
        }
    }

    /// The lent bytes.
    ///
    /// # Safety
    /// The lender's slice must outlive `'a`.
    #[must_use]
    pub const unsafe fn as_slice<'a>(self) -> &'a [u8] {
        // SAFETY: `new` took data and length from one slice, which outlives 'a by contract.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

/// Owner, group and mode of a pool ([`chimaera_proto::Permissions`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RawPermissions {
    /// User id of the owner.
    pub owner: u32,
    /// Group id.
    pub group: u32,
    /// Permission bits.
    pub mode: u32,
    /// 1 if the pool has these recorded, 0 if nothing is recorded.
    pub is_recorded: u32,
}

impl RawPermissions {
    /// These permissions, as the safe side has them.
    #[must_use]
    pub const fn to_permissions(self) -> Permissions {
        Permissions {
            owner: self.owner,
            group: self.group,
            mode: self.mode as u16 & MODE_BITS,
        }
    }
}

impl From<Permissions> for RawPermissions {
    fn from(permissions: Permissions) -> Self {
        Self {
            owner: permissions.owner,
            group: permissions.group,
            mode: permissions.mode.into(),
            is_recorded: 1,
        }
    }
}

/// Which opening of a pool this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RawIncarnation {
    /// Random bits of this opening. 0: the module has none, and the host draws some.
    pub current: u64,
    /// Those of the opening directly before, if that ended in good order; else 0.
    pub predecessor: u64,
}

/// Where a control-side call puts the text of its error: it calls `write` at most once.
#[repr(C)]
pub struct TextSink {
    /// Passed back to `write`.
    pub context: *mut c_void,
    /// Takes a copy of the text (UTF-8).
    pub write: unsafe extern "C" fn(context: *mut c_void, text: LentBytes),
}

/// A task, as the host hands it to a container.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RawTask {
    /// Identifies the task when it is completed. Only the host knows what it means.
    pub token: [u64; 2],
    /// Arguments, by method.
    pub arguments: [u64; ARGUMENT_COUNT],
    /// First byte of the buffer, null without one. The client may write there at any time.
    pub buffer: *mut u8,
    /// Bytes of the buffer.
    pub buffer_len: u32,
    /// What to do.
    pub method: u16,
    /// 1 if the client lets the module only read the buffer, else 0.
    pub buffer_is_read_only: u16,
    /// The pool's id.
    pub pool_major: u32,
    /// The pool's id.
    pub pool_minor: u32,
    /// The container that the query resolved to.
    pub container: u32,
    /// Zero.
    pub reserved: u32,
}

impl RawTask {
    /// A place for a task.
    pub const EMPTY: Self = Self {
        token: [0; 2],
        arguments: [0; ARGUMENT_COUNT],
        buffer: std::ptr::null_mut(),
        buffer_len: 0,
        method: 0,
        buffer_is_read_only: 0,
        pool_major: 0,
        pool_minor: 0,
        container: 0,
        reserved: 0,
    };
}

/// What a container did in a call, and whether it wants another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Activity(pub u32);

impl Activity {
    /// Nothing left to do on this worker: `poll` need not be called.
    pub const IDLE: Self = Self(0);
    /// Work is under way on this worker: call `poll` on every pass until it is done. Meanwhile
    /// the worker may sleep only if there is a `wake_fd`, which tells it about progress.
    pub const PENDING: Self = Self(1);
    /// This call moved something forward: the worker should not think of sleeping yet.
    pub const PROGRESS: Self = Self(2);
    /// A panic ended this call. The host pauses before it calls `poll` on this worker again, longer each time while no
    /// task of the pool completes between two panics. The SDK returns this; a module has no reason to.
    pub const PANICKED: Self = Self(4);

    /// Whether every bit of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for Activity {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The arguments of `create`.
#[repr(C)]
pub struct RawCreateContext {
    /// The host. The table stays where it is as long as the process lives.
    pub host: *const HostVTable,
    /// The pool's name (UTF-8).
    pub name: LentBytes,
    /// The module's own creation parameters.
    pub params: LentBytes,
    /// The pool's id.
    pub pool_major: u32,
    /// The pool's id.
    pub pool_minor: u32,
    /// Workers have indexes below this.
    pub worker_count: u32,
    /// Bits such as [`Self::ID_IS_CHOSEN`]. Those without a meaning are zero.
    pub flags: u32,
    /// User id of whoever asked for the pool, by the kernel's word.
    pub creator_uid: u32,
    /// Group id of whoever asked for the pool, by the kernel's word.
    pub creator_gid: u32,
    /// What a new pool is to have.
    pub permissions: RawPermissions,
    /// The number by which the container identifies itself to the host when it logs. Only the host knows what it means.
    pub speaker: u64,
    /// Folders beneath which the module may open paths that it is told: `allowed_count` of them.
    pub allowed: *const RawAllowedFolder,
    /// How many folders there are.
    pub allowed_count: u32,
    /// A file that whoever asks has opened, or -1. It stays open during the call.
    pub file: i32,
}

/// A folder beneath which a module may open paths that it is told.
#[derive(Debug)]
#[repr(C)]
pub struct RawAllowedFolder {
    /// Its absolute path.
    pub path: LentBytes,
    /// The folder, open during the call.
    pub folder: i32,
}

impl RawCreateContext {
    /// In `flags`: the host chose the id. The container may have another of its own
    /// ([`ModuleVTable::pool_id`]).
    pub const ID_IS_CHOSEN: u32 = 1;
    /// In `flags`: the module is a library of its own, not linked into the program. Statics are its own then,
    /// the hook for panics among them, so that it may change them.
    pub const IS_LIBRARY: u32 = 2;
    /// In `flags`: whoever asks has operators' rights.
    pub const CREATOR_IS_OPERATOR: u32 = 4;
    /// In `flags`: the module may open any path that it is told, whatever `allowed` says.
    pub const ANY_PATH: u32 = 8;
}

/// The arguments of `create_again`.
#[derive(Debug)]
#[repr(C)]
pub struct RawCreateAgain {
    /// The module's own creation parameters.
    pub params: LentBytes,
    /// User id of whoever asks now, by the kernel's word.
    pub creator_uid: u32,
    /// Group id of whoever asks now, by the kernel's word.
    pub creator_gid: u32,
    /// Bits that are set here.
    pub flags: u32,
}

impl RawCreateAgain {
    /// In `flags`: whoever asks now has operators' rights.
    pub const CREATOR_IS_OPERATOR: u32 = 1;
    /// In `flags`: whoever asks now has the right to manage the pool.
    pub const MAY_MANAGE: u32 = 2;
}

/// See [`ModuleVTable::prefetch`].
pub type Prefetch = unsafe extern "C" fn(
    container: *const c_void,
    method: u16,
    arguments: *const [u64; ARGUMENT_COUNT],
);

/// A module's table: exported under [`SYMBOL_PREFIX`] and the module's name.
///
/// Functions that take a sink return a status word ([`chimaera_proto::status`]), 0 for success;
/// with anything else they have written a text to the sink.
#[repr(C)]
pub struct ModuleVTable {
    /// Checked before anything else is read.
    pub header: Header,
    /// The module's name, without suffix (UTF-8).
    pub name: LentBytes,
    /// The module's own version (UTF-8).
    pub version: LentBytes,
    /// The module's methods.
    pub methods: LentMethods,
    /// Makes a container and stores it in `container`.
    pub create: unsafe extern "C" fn(
        arguments: *const RawCreateContext,
        container: *mut *mut c_void,
        error: *const TextSink,
    ) -> u32,
    /// Stores the id that is recorded for the pool, on a device for example; or 0.0 if none is, and the pool takes the
    /// one that `create` got.
    pub pool_id: unsafe extern "C" fn(
        container: *const c_void,
        major: *mut u32,
        minor: *mut u32,
        error: *const TextSink,
    ) -> u32,
    /// Stores 1 if `create` opened a pool that existed already, on a device for example, and 0 if it made a new one.
    pub was_opened: unsafe extern "C" fn(
        container: *const c_void,
        opened: *mut u32,
        error: *const TextSink,
    ) -> u32,
    /// Stores which opening of the pool this is.
    pub incarnation: unsafe extern "C" fn(
        container: *const c_void,
        incarnation: *mut RawIncarnation,
        error: *const TextSink,
    ) -> u32,
    /// Stores the permissions that are recorded for the pool, on a device for example, if any are.
    pub permissions: unsafe extern "C" fn(
        container: *const c_void,
        permissions: *mut RawPermissions,
        error: *const TextSink,
    ) -> u32,
    /// Records other permissions, where the pool outlives its container.
    pub set_permissions: unsafe extern "C" fn(
        container: *const c_void,
        permissions: *const RawPermissions,
        error: *const TextSink,
    ) -> u32,
    /// Takes another creation request for a pool of this name, which gives this very container, or an error whose text
    /// says what differs. May change parameters that the module lets the caller change.
    pub create_again: unsafe extern "C" fn(
        container: *const c_void,
        arguments: *const RawCreateAgain,
        error: *const TextSink,
    ) -> u32,
    /// Takes a task, which stays where it is, unchanged, until it completes. Returns
    /// [`Activity`].
    pub submit:
        unsafe extern "C" fn(container: *const c_void, worker: u32, task: *const RawTask) -> u32,
    /// Takes the method and arguments of a task that will be submitted soon; `None` where that is of no use. Has no
    /// effect but on caches.
    pub prefetch: Option<Prefetch>,
    /// Submits and reaps what is under way on this worker. Returns [`Activity`].
    pub poll: unsafe extern "C" fn(container: *const c_void, worker: u32) -> u32,
    /// A file that becomes readable when there is progress to be made on this worker, or -1. The
    /// host watches it edge-triggered and never reads it; the plugin closes it in `destroy`.
    pub wake_fd: unsafe extern "C" fn(container: *const c_void, worker: u32) -> i32,
    /// Makes everything that completed before durable. Called on request, and before `destroy`.
    pub flush: unsafe extern "C" fn(container: *const c_void, error: *const TextSink) -> u32,
    /// Ends the container.
    pub destroy: unsafe extern "C" fn(container: *mut c_void),
}

// SAFETY: the table is immutable, and what it points to (name, version, methods, functions) is static.
unsafe impl Sync for ModuleVTable {}
// SAFETY: as above.
unsafe impl Send for ModuleVTable {}

/// The host's table, as a container gets it. It stays valid as long as the process lives, because a
/// module's threads may outlive its containers and the host.
#[repr(C)]
pub struct HostVTable {
    /// Checked before anything else is read.
    pub header: Header,
    /// Passed back to every function.
    pub context: *const c_void,
    /// Completes the task with this token, on any thread, with a status word and
    /// the first `value_count` (at most [`VALUE_COUNT`]) values. The token is used up.
    pub complete: unsafe extern "C" fn(
        context: *const c_void,
        token: *const [u64; 2],
        status_word: u32,
        values: *const u64,
        value_count: u32,
    ),
    /// Writes a line to the host's log, on any thread, also after the host has ended. Does not block; none of these
    /// functions unwinds. `speaker` is the container's number, or that of any container of the module if it is not
    /// known which. Levels: 1 error, 2 warning, 3 info, 4 debug.
    pub log:
        unsafe extern "C" fn(context: *const c_void, speaker: u64, level: u32, text: LentBytes),
    /// Logs a panic of the current thread, as an error. It is called twice for one panic, and the host logs the first
    /// call: from the panic hook of a module that is a library, with the place (file, line, column) and any speaker of
    /// the module's; and where the panic is caught, with an empty place and the container's own speaker. The thread's
    /// name is empty unless the library gave it one: of its own threads the host knows the names.
    pub panicked: unsafe extern "C" fn(
        context: *const c_void,
        speaker: u64,
        place: LentBytes,
        thread: LentBytes,
        text: LentBytes,
    ),
    /// Tells the host that the current thread, one of the module's own, works for the container with this
    /// speaker: its panics are logged as that pool's.
    pub adopt_thread: unsafe extern "C" fn(context: *const c_void, speaker: u64),
    /// Returns 1 for a file that the process itself needs (its log, its locks, its programs and libraries), by device
    /// and inode, which no pool may have; else 0. Any thread but a worker; may block.
    pub is_own_file: unsafe extern "C" fn(context: *const c_void, device: u64, inode: u64) -> u32,
    /// Counts what a container is about to take in the account of whoever has the pool, until the container is
    /// destroyed. `resource` is a [`HostResource`](crate::HostResource). Returns 0; or, if that is more than the
    /// account may have, a status word, with the reason in `error`: then nothing is counted, and the container does
    /// without. The control side; does not block.
    pub charge: unsafe extern "C" fn(
        context: *const c_void,
        speaker: u64,
        resource: u32,
        amount: u64,
        error: *const TextSink,
    ) -> u32,
}

// SAFETY: the functions may be called from any thread, by the contract above; the rest is data.
unsafe impl Sync for HostVTable {}
// SAFETY: as above.
unsafe impl Send for HostVTable {}

const _: () = {
    assert!(VALUE_COUNT <= u32::MAX as usize);
    assert!(size_of::<Header>() == 16);
};
