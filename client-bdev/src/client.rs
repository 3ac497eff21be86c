//! The client itself: which pool it is for, creating it, and what it says of itself.

use std::borrow::Cow;
use std::fmt;

use chimaera_bdev_proto::{MODULE_NAME, Method, STATS_BUFFER_BYTES, Stats};
use chimaera_client::{
    Call, Error, Finished, PoolChoice, PoolHandle, PoolId, PoolQuery, Runtime, Status, Task,
    TaskError,
};
use chimaera_proto::codec;
use chimaera_proto::shown::brief;

use crate::options::CreateOptions;
use crate::paths::absolute;

/// The client of one block-device pool.
///
/// Blocking methods wait until their task has ended, spinning for a bounded time and then
/// sleeping. Their `async_` twins do not wait, and give a [`Task`]; whatever fails is the task's
/// result, together with the buffer that went along. Every method can be called from any number of threads
/// at once; each thread has a lane of its own.
///
/// # Errors
///
/// Besides what each method says, every call may fail with:
///
/// | status | why |
/// |---|---|
/// | [`Status::PoolNotFound`] | there is no pool with the client's id: not yet, or not any more; or it is [`PoolId::NULL`] |
/// | [`Status::ContainerNotFound`], [`Status::NodeNotFound`], [`Status::InvalidArgument`] | the query names a container or a node that is not there, or a range of none |
/// | [`Status::WrongModule`] | the id is another module's pool |
/// | [`Status::PermissionDenied`] | the calling user lacks the right that the call needs: to read, list and look at statistics, to write, allocate, free and flush, or to manage the pool |
/// | [`Status::PoolChanged`] | the pool is not what it was: see [`Client::has_changed`] |
/// | [`Status::ShuttingDown`] | the runtime is being stopped |
/// | [`Status::ConnectionLost`] | the daemon went away, or the embedded runtime was stopped |
/// | [`Status::Forked`] | the connection is that of the process that this one was forked from |
/// | [`Status::Busy`] | of an `async_` method: 16,384 tasks of the connection wait to be submitted. Of any: a signal handler calls, and has interrupted another call; or the daemon does not answer for 20 s where a thread needs its lane or further memory |
/// | [`Status::OutOfResources`] | such a lane or memory lacks a file descriptor or room |
/// | [`Status::OutOfMemory`] | there is no memory for the buffer of lists, statistics, `_bytes` and of creating; or the host has none for the task |
/// | [`Status::InvalidBuffer`] | of what takes a buffer: it is another connection's, or longer than 4 GiB |
/// | [`Status::Aborted`], [`Status::ModulePanicked`] | the module dropped the task, or panicked with it |
/// | [`Status::ProtocolViolation`] | the host answered what cannot be |
pub struct Client {
    pool: PoolHandle,
    /// The id that is requested at creation: the caller's own choice, else [`PoolId::NULL`]. An id that the host chose
    /// is not requested again: blocks that clients kept of a pool that is gone must not be valid in the next.
    pub(crate) chosen: PoolId,
}

impl Client {
    /// A client for the pool with this id, which may be created later. With [`PoolId::NULL`], the
    /// host chooses the id when the pool is created. Sends nothing: the first call attaches to the pool.
    #[must_use]
    pub fn new(runtime: &Runtime, pool: PoolId) -> Self {
        Self {
            pool: PoolHandle::new(runtime, MODULE_NAME, pool),
            chosen: pool,
        }
    }

    /// A client for the pool with this name, which must be there. A name that no pool has is looked for also as a path
    /// that is relative to the working folder of this process, as [`Self::create`] takes it.
    ///
    /// # Errors
    /// [`Status::PoolNotFound`]; [`Status::WrongModule`] if it is of another module; [`Status::PermissionDenied`] if
    /// the calling user has no right to it, or if it is another user's and no operator's: [`Self::open_of`].
    pub fn open(runtime: &Runtime, name: &str) -> Result<Self, Error> {
        Ok(Self::async_open(runtime, name).wait()?)
    }

    /// As [`Self::open`].
    pub fn async_open(runtime: &Runtime, name: &str) -> Task<Self> {
        Self::open_choice(runtime, name, None)
    }

    /// As [`Self::open`], for a pool of the user with this id.
    ///
    /// # Errors
    /// As there.
    pub fn open_of(runtime: &Runtime, owner: u32, name: &str) -> Result<Self, Error> {
        Ok(Self::async_open_of(runtime, owner, name).wait()?)
    }

    /// As [`Self::open_of`].
    pub fn async_open_of(runtime: &Runtime, owner: u32, name: &str) -> Task<Self> {
        Self::open_choice(runtime, name, Some(owner))
    }

    fn open_choice(runtime: &Runtime, name: &str, owner: Option<u32>) -> Task<Self> {
        let operation = format!("opening the pool \"{}\"", brief(name));
        let found = async_find(runtime, name, owner);
        Task::of_steps(async move {
            match found.await {
                Ok(pool) => Ok(Self {
                    pool,
                    chosen: PoolId::NULL,
                }),
                Err(error) => Err(error.error.during(operation).into()),
            }
        })
    }

    /// A client for the pool with this name, which is created if it is not there: [`Self::create`] with
    /// [`PoolQuery::Dynamic`] and whatever id the pool has.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn open_or_create(
        runtime: &Runtime,
        name: &str,
        options: &CreateOptions,
    ) -> Result<Self, Error> {
        Ok(Self::async_open_or_create(runtime, name, options).wait()?)
    }

    /// As [`Self::open_or_create`].
    pub fn async_open_or_create(
        runtime: &Runtime,
        name: &str,
        options: &CreateOptions,
    ) -> Task<Self> {
        let client = Self::new(runtime, PoolId::NULL);
        let created = client.async_create(PoolQuery::Dynamic, name, options);
        Task::of_steps(async move {
            created.await?;
            Ok(client)
        })
    }

    /// The pool's id. [`PoolId::NULL`] as long as the host has to choose it.
    #[inline]
    #[must_use]
    pub fn pool_id(&self) -> PoolId {
        self.pool.id()
    }

    /// The incarnation of the pool for which holds what is known of it: a number that changes whenever the pool is
    /// opened. A program that keeps blocks beyond the end of its process keeps this beside them, and says so when it
    /// opens the pool again ([`CreateOptions::incarnation`]). `None` before the first use.
    #[must_use]
    pub fn incarnation(&self) -> Option<u64> {
        self.pool.incarnation()
    }

    /// Whether the pool is not what it was: it was destroyed and made again, or it did not end in good order, and what
    /// was not flushed may be forgotten. Blocks that were known may be somebody else's now. So all calls fail with
    /// [`Status::PoolChanged`] but those that look ([`Self::all_blocks`], [`Self::map`], [`Self::get_stats`]), until
    /// [`Self::all_blocks`] has come to its end, or [`Self::accept_change`] is called.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.pool.has_changed()
    }

    /// Goes on with a pool that [has changed](Self::has_changed): the application has forgotten the blocks that it
    /// knew.
    pub fn accept_change(&self) {
        self.pool.accept_change();
    }

    /// The runtime that the client talks to.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        self.pool.runtime()
    }

    /// The pool, through which calls are carried out.
    #[inline]
    pub(crate) fn pool(&self) -> &PoolHandle {
        &self.pool
    }

    /// What the pool is and has done: the characteristics given at creation, the exact remaining
    /// size in bytes, and what was really measured.
    ///
    /// # Errors
    /// See [`Client`].
    pub fn get_stats(&self) -> Result<Stats, Error> {
        Ok(self.async_get_stats().wait()?)
    }

    /// As [`Self::get_stats`].
    pub fn async_get_stats(&self) -> Task<Stats> {
        let call = self.call(PoolQuery::Local, Method::GetStats, [0; 3]);
        match self.runtime().allocate_buffer(STATS_BUFFER_BYTES as usize) {
            Ok(buffer) => self.pool.submit_look(call, Some(buffer), finish_stats),
            Err(error) => Task::failed(error.during(describe_stats(&call))),
        }
    }

    /// Makes all that completed before it durable: data, allocations and frees. Blocks until it is.
    ///
    /// A write that has completed was given to the device, which may still hold it in a cache. After
    /// a crash or power cut, a pool on a file or device has all that was flushed, intact; of what
    /// came after, it may have forgotten allocations and frees, and sectors of a block hold what
    /// they held before or what was written since. It never mixes two owners' data.
    ///
    /// Memory is volatile: there a flush succeeds and means nothing.
    ///
    /// # Errors
    /// [`Status::IoError`] with the device's errno: then nothing is known to be durable that was not
    /// before.
    pub fn flush(&self, query: PoolQuery) -> Result<(), Error> {
        let call = self.call(query, Method::Flush, [0; 3]);
        match self.pool.carry_out_asleep(&call) {
            Ok(_) => Ok(()),
            Err(error) => Err(not_flushed(error, &call)),
        }
    }

    /// As [`Self::flush`]. What counts is what completed before this was called: wait for a write
    /// first if the flush is to cover it.
    pub fn async_flush(&self, query: PoolQuery) -> Task<()> {
        let call = self.call(query, Method::Flush, [0; 3]);
        self.pool
            .submit(call, None, |finished| match finished.values() {
                Ok(_) => Ok(()),
                Err(error) => Err(not_flushed(error, finished.call()).into()),
            })
    }

    #[inline]
    pub(crate) fn call(&self, query: PoolQuery, method: Method, arguments: [u64; 3]) -> Call {
        self.pool.call(query, method as u16, arguments)
    }
}

fn finish_stats(finished: Finished<'_>) -> Result<Stats, TaskError> {
    let describe = || describe_stats(finished.call());
    let values = finished
        .values()
        .map_err(|error| error.during(describe()))?;
    let bytes = usize::try_from(values[0])
        .ok()
        .and_then(|len| finished.buffer()?.get(..len))
        .unwrap_or_default();
    let stats = codec::decode(bytes);
    Ok(stats
        .map_err(|error| Error::new(Status::ProtocolViolation, describe()).with_detail(error))?)
}

fn describe_stats(call: &Call) -> String {
    format!("statistics of pool {}", call.pool)
}

/// The error of a flush, which says what helps after a failure of the device.
fn not_flushed(error: Error, call: &Call) -> Error {
    let is_the_devices = error.status() == Status::IoError;
    let error = error.during(format_args!("flushing pool {}", call.pool));
    match is_the_devices {
        true => error.with_detail(
            "nothing more of it can be flushed until it is destroyed, checked and created again; the daemon's log says \
             more (`chimaera runtime status`)",
        ),
        false => error,
    }
}

/// Attaches to a pool by its name, or by a path that leads to its file from here.
fn async_find(runtime: &Runtime, name: &str, owner: Option<u32>) -> Task<PoolHandle> {
    let open = move |runtime: &Runtime, name: &str| {
        let choice = PoolChoice {
            owner,
            ..name.into()
        };
        PoolHandle::async_open(runtime, MODULE_NAME, choice)
    };
    let found = open(runtime, name);
    // A name that is no valid path is only a name.
    let path = absolute(name).ok().filter(|path| path != name);
    let Some(path) = path.map(Cow::into_owned) else {
        return found;
    };
    let (runtime, shown) = (runtime.clone(), brief(name).into_owned());
    let is_absent = |error: &TaskError| error.status() == Status::PoolNotFound;
    Task::of_steps(async move {
        match found.await {
            Err(error) if is_absent(&error) => {}
            found => return found,
        }
        match open(&runtime, &path).await {
            Err(error) if is_absent(&error) => Err(error
                .error
                .with_account(format_args!(
                    "there is no pool named {shown}, and none on the file {}: create it first, or check its name",
                    brief(&path)
                ))
                .into()),
            found => found,
        }
    })
}

impl Clone for Client {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            chosen: self.chosen,
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("pool", &self.pool_id())
            .finish_non_exhaustive()
    }
}
