//! The client of the admin module: pools, and the runtime itself.

use chimaera_proto::accounts::{ListSessions, SessionList};
use chimaera_proto::admin::{
    AttachPool, DestroyPool, FindPool, FlushPools, GetOrCreatePool, ListPools, Method, PoolChoice,
    PoolInfo, PoolKey, PoolList, PoolName, RuntimeStatus, SetPermissions,
};
use chimaera_proto::limits::{ADMIN_BUFFER_BYTES, MAX_ERROR_TEXT_BYTES};
use chimaera_proto::shown::{brief, printable};
use chimaera_proto::{PoolId, PoolQuery, Status, codec};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::buffer::Buffer;
use crate::call::{Call, Finished};
use crate::error::Error;
use crate::runtime::Runtime;
use crate::task::Task;
use crate::task_error::TaskError;

/// The client of the admin module. Every method blocks until its task has ended; those that begin
/// with `async_` give a handle instead.
///
/// # Errors
///
/// Besides what each method says, every call may fail with [`Status::ConnectionLost`]; [`Status::ShuttingDown`] where
/// the runtime is being stopped, save for what asks for its status or lists; [`Status::Forked`] in a forked child;
/// [`Status::OutOfMemory`] or [`Status::OutOfResources`] where there is no memory, descriptor or thread for the
/// request; [`Status::InvalidArgument`] for a request that is too long, or a query of no container;
/// [`Status::ContainerNotFound`] and [`Status::NodeNotFound`] for one of another than there is; and [`Status::Busy`]
/// for what comes from a signal handler that has interrupted another call, for an `async_` method where 16,384 tasks
/// wait to be submitted, and where the daemon does not answer for 20 s a thread that needs its lane or memory.
#[derive(Clone, Debug)]
pub struct AdminClient {
    runtime: Runtime,
}

impl Runtime {
    /// The client of the runtime's admin module: pools, and the runtime itself.
    #[must_use]
    pub fn admin(&self) -> AdminClient {
        AdminClient {
            runtime: self.clone(),
        }
    }
}

impl AdminClient {
    /// Gives the pool with this id or name if it is there, else creates it. With an id of [`PoolId::NULL`] the pool has
    /// the id of the pool with this name, else the one that its file or device holds, else one that the runtime
    /// chooses. The reply names it.
    ///
    /// # Errors
    /// [`Status::PermissionDenied`] if the caller has no right to it, or it is another user's who is not named;
    /// [`Status::PoolChanged`] if it is not the incarnation that the request names, or the next;
    /// [`Status::WrongModule`]; [`Status::ParameterMismatch`] if it is there with other parameters, or its file or
    /// device holds another id; [`Status::Busy`] if the id that it holds is another pool's here; and whatever keeps the
    /// module from creating it.
    pub fn get_or_create_pool(
        &self,
        query: PoolQuery,
        request: &GetOrCreatePool,
    ) -> Result<PoolInfo, Error> {
        named(self.async_get_or_create_pool(query, request).wait(), || {
            format!("creating the pool \"{}\"", brief(&request.name))
        })
    }

    /// As [`Self::get_or_create_pool`].
    pub fn async_get_or_create_pool(
        &self,
        query: PoolQuery,
        request: &GetOrCreatePool,
    ) -> Task<PoolInfo> {
        self.submit(Method::GetOrCreatePool, query, request, finish)
    }

    /// Attaches the session to a pool that is there: from now on it may send tasks to it.
    /// [`PoolHandle`](crate::PoolHandle) does that at first use.
    ///
    /// # Errors
    /// [`Status::PoolNotFound`]; [`Status::PermissionDenied`] if the caller has no right to it, or it is another user's
    /// who is not named; [`Status::WrongModule`]; [`Status::PoolChanged`] if it is not the incarnation that the request
    /// names, or the next; [`Status::Busy`] if its id means another user's pool in this session already.
    pub fn attach_pool(&self, request: &AttachPool) -> Result<PoolInfo, Error> {
        named(self.async_attach_pool(request).wait(), || {
            format!("attaching to pool {}", shown(&request.pool))
        })
    }

    /// As [`Self::attach_pool`].
    pub fn async_attach_pool(&self, request: &AttachPool) -> Task<PoolInfo> {
        self.submit(Method::AttachPool, PoolQuery::Local, request, finish)
    }

    /// Changes owner, group or mode of a pool. When this returns, no task is taken any more that only the former ones
    /// allow; those in flight go on.
    ///
    /// # Errors
    /// [`Status::PoolNotFound`]; [`Status::PermissionDenied`] to whoever is neither its owner nor an operator, to an
    /// owner who names another one, and for a group that is not the caller's; [`Status::Busy`] if the new owner has a
    /// pool of this id or name; and whatever keeps the module from recording them.
    pub fn set_permissions(&self, request: &SetPermissions) -> Result<PoolInfo, Error> {
        named(self.async_set_permissions(request).wait(), || {
            format!("changing the permissions of pool {}", shown(&request.pool))
        })
    }

    /// As [`Self::set_permissions`].
    pub fn async_set_permissions(&self, request: &SetPermissions) -> Task<PoolInfo> {
        self.submit(Method::SetPermissions, PoolQuery::Local, request, finish)
    }

    /// Ends a pool in this runtime, after its tasks in flight have completed. What a memory pool held
    /// is lost; what a file pool holds stays on its file or device, and creating the pool again
    /// opens it.
    ///
    /// A pool is named by its id or name, and its owner if it is neither the caller's nor an operator's. A memory pool
    /// that is created after this with the same id is another pool, but what clients kept of the old one, such as
    /// blocks, names something in it. An id of [`PoolId::NULL`] at creation draws one that the old pool did not have.
    ///
    /// # Errors
    /// [`Status::PoolNotFound`]; [`Status::PermissionDenied`] for the admin pool, and to whoever is neither the pool's
    /// owner nor an operator; whatever kept the pool from being flushed, as [`Status::IoError`]: what completed last
    /// may be lost then, and the pool has ended all the same.
    pub fn destroy_pool(&self, pool: impl Into<PoolChoice>) -> Result<(), Error> {
        let pool = pool.into();
        let operation = format!("destroying pool {}", shown(&pool));
        named(self.async_destroy_pool(pool).wait(), || operation)
    }

    /// As [`Self::destroy_pool`].
    pub fn async_destroy_pool(&self, pool: impl Into<PoolChoice>) -> Task<()> {
        let request = DestroyPool { pool: pool.into() };
        self.submit(Method::DestroyPool, PoolQuery::Local, &request, finish)
    }

    /// All pools that the caller has any right to, in order of id and owner. Pools that come and go meanwhile may be in
    /// it or not.
    ///
    /// # Errors
    /// See [`AdminClient`].
    pub fn list_pools(&self) -> Result<Vec<PoolInfo>, Error> {
        Ok(self.async_list_pools().wait()?)
    }

    /// As [`Self::list_pools`].
    pub fn async_list_pools(&self) -> Task<Vec<PoolInfo>> {
        let admin = self.clone();
        Task::of_steps(async move {
            let mut pools: Vec<PoolInfo> = Vec::new();
            loop {
                let last = pools.last().map(PoolInfo::key);
                let page = admin.async_pool_page(last).await?;
                let advances = page.pools.first().map(PoolInfo::key) > last;
                pools.extend(page.pools);
                // A page that does not advance would be requested again and again.
                if !page.more || !advances {
                    return Ok(pools);
                }
            }
        })
    }

    /// A page of these pools behind `after`.
    ///
    /// # Errors
    /// See [`AdminClient`].
    pub fn pool_page(&self, after: Option<PoolKey>) -> Result<PoolList, Error> {
        Ok(self.async_pool_page(after).wait()?)
    }

    /// As [`Self::pool_page`].
    pub fn async_pool_page(&self, after: Option<PoolKey>) -> Task<PoolList> {
        let request = ListPools { after };
        self.submit(Method::ListPools, PoolQuery::Local, &request, finish)
    }

    /// A page of the sessions behind the one with the number `after`, 0 for the first, and what their users have of
    /// what all share. Operators are told of all, others of their own.
    ///
    /// # Errors
    /// See [`AdminClient`].
    pub fn session_page(&self, after: u64) -> Result<SessionList, Error> {
        Ok(self.async_session_page(after).wait()?)
    }

    /// As [`Self::session_page`].
    pub fn async_session_page(&self, after: u64) -> Task<SessionList> {
        let request = ListSessions { after };
        self.submit(Method::ListSessions, PoolQuery::Local, &request, finish)
    }

    /// The pool with this id or name, as it stands in lists: that of a file pool is the whole path.
    ///
    /// # Errors
    /// [`Status::PoolNotFound`]; [`Status::PermissionDenied`] without any right to it, and for another user's pool
    /// whose owner is not named.
    pub fn find_pool(&self, pool: impl Into<PoolChoice>) -> Result<PoolInfo, Error> {
        let pool = pool.into();
        let operation = format!("finding the pool {}", shown(&pool));
        named(self.async_find_pool(pool).wait(), || operation)
    }

    /// As [`Self::find_pool`].
    pub fn async_find_pool(&self, pool: impl Into<PoolChoice>) -> Task<PoolInfo> {
        let request = FindPool { pool: pool.into() };
        self.submit(Method::FindPool, PoolQuery::Local, &request, finish)
    }

    /// Brings a pool, or every pool that the caller may write to, to stable storage: all that completed before this was
    /// called.
    ///
    /// # Errors
    /// [`Status::PoolNotFound`], [`Status::PermissionDenied`], [`Status::IoError`].
    pub fn flush(&self, pool: Option<PoolChoice>) -> Result<(), Error> {
        let operation = match &pool {
            Some(pool) => format!("flushing pool {}", shown(pool)),
            None => describe(Method::FlushPools).to_owned(),
        };
        named(self.async_flush(pool).wait(), || operation)
    }

    /// As [`Self::flush`].
    pub fn async_flush(&self, pool: Option<PoolChoice>) -> Task<()> {
        let request = FlushPools { pool };
        self.submit(Method::FlushPools, PoolQuery::Local, &request, finish)
    }

    /// Asks the runtime to end: it accepts no more tasks and completes those in flight.
    ///
    /// # Errors
    /// [`Status::PermissionDenied`] to whoever is no operator. Whatever kept a pool from being flushed, as
    /// [`Status::IoError`]: what completed last may be lost then, and the runtime ends all the same.
    pub fn stop_runtime(&self) -> Result<(), Error> {
        Ok(self.async_stop_runtime().wait()?)
    }

    /// As [`Self::stop_runtime`].
    pub fn async_stop_runtime(&self) -> Task<()> {
        self.submit(Method::StopRuntime, PoolQuery::Local, &(), finish)
    }

    /// What the runtime knows of itself.
    ///
    /// # Errors
    /// See [`AdminClient`].
    pub fn status(&self) -> Result<RuntimeStatus, Error> {
        Ok(self.async_status().wait()?)
    }

    /// As [`Self::status`].
    pub fn async_status(&self) -> Task<RuntimeStatus> {
        self.submit(Method::GetStatus, PoolQuery::Local, &(), finish)
    }

    /// Does nothing, on a worker: shows that the runtime answers, and how fast.
    ///
    /// # Errors
    /// See [`AdminClient`].
    #[inline]
    pub fn ping(&self) -> Result<(), Error> {
        match self.runtime.call(&PING) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.during("ping of the runtime")),
        }
    }

    /// As [`Self::ping`].
    pub fn async_ping(&self) -> Task<()> {
        self.runtime
            .submit(PING, None, |finished| match finished.values() {
                Ok(_) => Ok(()),
                Err(error) => Err(error.during("ping of the runtime").into()),
            })
    }

    fn submit<T>(
        &self,
        method: Method,
        query: PoolQuery,
        request: &impl Serialize,
        finish: fn(Finished<'_>) -> Result<T, TaskError>,
    ) -> Task<T> {
        match self.request(method, query, request) {
            Ok((call, buffer)) => self.runtime.submit(call, Some(buffer), finish),
            Err(error) => Task::failed(error.during(describe(method))),
        }
    }

    /// The call of a method, and its buffer with the request.
    fn request(
        &self,
        method: Method,
        query: PoolQuery,
        request: &impl Serialize,
    ) -> Result<(Call, Buffer), Error> {
        let bytes = codec::encode(request).map_err(|error| {
            Error::new(Status::InvalidArgument, describe(method)).with_detail(error)
        })?;
        let mut buffer = self.runtime.allocate_buffer(ADMIN_BUFFER_BYTES as usize)?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        let call = Call {
            pool: PoolId::ADMIN,
            instance: 0,
            query,
            method: method as u16,
            arguments: [bytes.len() as u64, 0, 0],
        };
        Ok((call, buffer))
    }
}

pub(crate) const PING: Call = Call {
    pool: PoolId::ADMIN,
    instance: 0,
    query: PoolQuery::Local,
    method: Method::Ping as u16,
    arguments: [0; 3],
};

/// The result of a blocking call, with an error that says which pool it is about.
fn named<T>(ended: Result<T, TaskError>, operation: impl FnOnce() -> String) -> Result<T, Error> {
    ended.map_err(|error| Error::from(error).during(operation()))
}

/// Reads the reply out of the buffer: the method's, or the error's text.
fn finish<T: DeserializeOwned>(finished: Finished<'_>) -> Result<T, TaskError> {
    let operation = Method::from_number(finished.call().method).map_or("admin task", describe);
    // The length is the daemon's; a wrong one reads as no reply.
    let reply = usize::try_from(finished.values_in_any_case()[0])
        .ok()
        .and_then(|len| finished.buffer()?.get(..len))
        .unwrap_or_default();
    match finished.values() {
        Ok(_) => codec::decode(reply).map_err(|error| {
            Error::new(Status::ProtocolViolation, operation)
                .with_detail(error)
                .into()
        }),
        Err(error) => {
            let error = error.during(operation);
            let text = reply.get(..MAX_ERROR_TEXT_BYTES).unwrap_or(reply);
            let text = String::from_utf8_lossy(text);
            if text.is_empty() {
                Err(error.into())
            } else {
                // A module may have put anything into it.
                Err(error.with_account(printable(&text)).into())
            }
        }
    }
}

const fn describe(method: Method) -> &'static str {
    match method {
        Method::Ping => "ping of the runtime",
        Method::GetOrCreatePool => "creating a pool",
        Method::DestroyPool => "destroying a pool",
        Method::ListPools => "listing the pools",
        Method::FindPool => "finding a pool",
        Method::FlushPools => "flushing pools",
        Method::StopRuntime => "stopping the runtime",
        Method::GetStatus => "asking for the runtime's status",
        Method::AttachPool => "attaching to a pool",
        Method::SetPermissions => "changing the permissions of a pool",
        Method::ListSessions => "listing the sessions",
    }
}

/// A pool as a request names it, for a text.
fn shown(choice: &PoolChoice) -> String {
    let pool = match &choice.pool {
        PoolName::Id(id) => id.to_string(),
        PoolName::Name(name) => format!("\"{}\"", brief(name)),
    };
    match choice.owner {
        Some(owner) => format!("{pool} of user {owner}"),
        None => pool,
    }
}
