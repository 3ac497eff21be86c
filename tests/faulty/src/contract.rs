//! What tests ask of the module.

/// Name of the module; its library is `libchimaera_faulty_runtime.so`.
pub const MODULE_NAME: &str = "chimaera_faulty";

/// What completions of held requests carry as their first value, and their buffers everywhere.
pub const RELEASED: u8 = 0xFE;

/// What the module does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Method {
    /// Completes it.
    Complete = 0,
    /// Panics with it in hand.
    Panic = 1,
    /// Drops it.
    Drop = 2,
    /// Panics with a payload that panics as it is dropped.
    PanicWithBomb = 3,
    /// Completes it on a thread that the host does not know, with the argument as its value.
    CompleteElsewhere = 4,
    /// Keeps it until [`Method::Release`] or [`Method::DropHeld`], which are asked of another pool: one that is being
    /// destroyed takes no more tasks.
    Hold = 5,
    /// Completes what the pool in the arguments (major, minor) holds, after it has filled the
    /// buffers, with [`RELEASED`]. `values[0]`: how many.
    Release = 6,
    /// Completes it with more values than a completion carries.
    TooManyValues = 7,
    /// Panics with it in hand, on a thread of its own.
    PanicElsewhere = 8,
    /// `values[0]`: how many requests the pool in the arguments holds.
    CountHeld = 9,
    /// Drops what the pool in the arguments holds, on a thread of its own.
    DropHeld = 10,
    /// Keeps it until `poll` is called, which panics with it in hand.
    PanicInPoll = 11,
    /// Logs a line of each level with the argument, on a thread of its own, and then completes it.
    LogElsewhere = 12,
    /// Panics with it in hand, on a thread of its own that says for which pool it works.
    PanicOnAdoptedThread = 13,
    /// Keeps it. From now on each `poll` panics, until [`Method::PollWell`].
    PanicInEveryPoll = 14,
    /// `poll` completes what [`Method::PanicInEveryPoll`] kept. `values[0]`: how often it panicked.
    PollWell = 15,
    /// Fails it with the status whose code is the argument.
    FailWith = 16,
    /// `values[0]`: how many requests the pool was handed before this one, whatever their methods.
    CountHanded = 17,
    /// `submit` hangs until the file exists that the pool's parameters name, and then completes it.
    WaitInSubmit = 18,
    /// Keeps it. The next `poll` hangs until the file exists that the pool's parameters name, and then completes it.
    WaitInPoll = 19,
}

/// How many methods there are: their numbers are below this.
pub const METHOD_COUNT: u16 = 20;

impl Method {
    pub(crate) fn from_number(number: u16) -> Option<Self> {
        use Method::*;
        let all = [
            Complete,
            Panic,
            Drop,
            PanicWithBomb,
            CompleteElsewhere,
            Hold,
            Release,
            TooManyValues,
            PanicElsewhere,
            CountHeld,
            DropHeld,
            PanicInPoll,
            LogElsewhere,
            PanicOnAdoptedThread,
            PanicInEveryPoll,
            PollWell,
            FailWith,
            CountHanded,
            WaitInSubmit,
            WaitInPoll,
        ];
        all.into_iter().find(|&method| method as u16 == number)
    }
}

/// What the module does wrong outside of tasks, as a pool's creation parameters in UTF-8. A pool with any other text
/// does nothing of this wrong.
pub mod params {
    /// `create` panics.
    pub const CREATE_PANIC: &str = "create panic";
    /// `create` panics with a payload that panics as it is dropped.
    pub const CREATE_BOMB: &str = "create bomb";
    /// `create` fails for lack of space.
    pub const CREATE_ERROR: &str = "create error";
    /// `create` fails with a status that says that all is well.
    pub const CREATE_OK_AS_ERROR: &str = "create ok as error";
    /// `create` hangs until there is a file whose path follows.
    pub const CREATE_WAITS: &str = "create waits for ";
    /// What the pool holds is released when there is a file whose path follows, even when pool or host take no more
    /// tasks.
    pub const RELEASES_AT: &str = "releases at ";
    /// `flush` hangs until there is a file whose path follows.
    pub const FLUSH_WAITS: &str = "flush waits for ";
    /// What [`Method::WaitInSubmit`](super::Method) and its like wait for is a file whose path follows.
    pub const CALLS_WAIT: &str = "calls wait for ";
    /// `create` fails with a status that is the client library's.
    pub const CREATE_NO_RUNTIME: &str = "create no runtime";
    /// `create` fails without a text.
    pub const CREATE_SILENT: &str = "create silent";
    /// `create` fails with a text that has characters which are not to be shown.
    pub const CREATE_CONTROLS: &str = "create controls";
    /// `pool_id` gives the id that stands for none.
    pub const ID_NULL: &str = "id null";
    /// `pool_id` gives the id of the admin pool.
    pub const ID_ADMIN: &str = "id admin";
    /// `pool_id` panics.
    pub const ID_PANIC: &str = "id panic";
    /// `flush` panics.
    pub const FLUSH_PANIC: &str = "flush panic";
    /// `flush` fails.
    pub const FLUSH_ERROR: &str = "flush error";
    /// `wake_fd` gives a regular file, which wakes nobody.
    pub const WAKE_FILE: &str = "wake file";
    /// `wake_fd` panics.
    pub const WAKE_PANIC: &str = "wake panic";
    /// The container hangs as it is dropped until there is a file whose path follows.
    pub const DROP_WAITS: &str = "drop waits for ";
    /// The container panics as it is dropped.
    pub const DROP_PANIC: &str = "drop panic";
}
