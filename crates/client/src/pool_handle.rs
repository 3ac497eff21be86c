//! A pool as the client of a module holds it: attached at its first use, and known to be the same one since.
//!
//! The runtime takes tasks for a pool only from sessions that are attached to it, as which the client asks for that
//! once for each connection. What an application knows of a pool's contents, such as its blocks, holds for one
//! **incarnation** of the pool, and the next one if that follows in good order. A pool that is found to be another one
//! is `changed`: its tasks are refused here until the application has asked what there is, so that a stale block never
//! reaches what has become somebody else's.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chimaera_proto::admin::{AttachPool, GetOrCreatePool, PoolChoice, PoolInfo};
use chimaera_proto::shown::brief;
use chimaera_proto::{PoolId, PoolQuery, Status};

use crate::buffer::{Buffer, BufferSlice, BufferSliceMut};
use crate::call::{Call, Finished, Refused, Values};
use crate::call_parts::PartError;
use crate::error::Error;
use crate::known_pools::{KnownPool, KnownPools, from_word};
use crate::offer::OfferedFile;
use crate::reentrancy::{is_inside, refuse_inside};
use crate::runtime::Runtime;
use crate::task::Task;
use crate::task_error::TaskError;

/// A pool of a module, over one connection. Clones are the same one: what becomes known of the pool by one of them,
/// the others know too.
///
/// The methods that carry out calls are those of [`Runtime`], and fail as those do. The first of them attaches to the
/// pool, which blocks for the runtime's answer, and may fail with [`Status::PoolNotFound`],
/// [`Status::PermissionDenied`], [`Status::WrongModule`] or [`Status::PoolChanged`].
#[derive(Clone)]
pub struct PoolHandle {
    runtime: Runtime,
    module: &'static str,
    shared: Arc<KnownPool>,
}

impl PoolHandle {
    /// The pool of this module with this id, which may be made later. [`PoolId::NULL`] is the id of none. Sends
    /// nothing.
    #[must_use]
    pub fn new(runtime: &Runtime, module: &'static str, id: PoolId) -> Self {
        Self {
            runtime: runtime.clone(),
            module,
            shared: Arc::new(KnownPool::new(id)),
        }
    }

    /// Attaches to a pool that is there. Does not wait.
    ///
    /// The task may fail with [`Status::PoolNotFound`]; [`Status::WrongModule`] for one of another module;
    /// [`Status::PermissionDenied`] without any right to it, and for another user's pool whose owner is not named.
    pub fn async_open(runtime: &Runtime, module: &'static str, choice: PoolChoice) -> Task<Self> {
        let pool = Self::new(runtime, module, PoolId::NULL);
        if let Some(owner) = choice.owner {
            pool.shared.set_owner(owner);
        }
        let attached = runtime.admin().async_attach_pool(&AttachPool {
            pool: choice,
            module: module.to_owned(),
            incarnation: None,
        });
        Task::of_steps(async move {
            pool.settle(&attached.await?);
            Ok(pool)
        })
    }

    /// Creates the pool, or finds it, and attaches to it. Does not wait. See
    /// [`AdminClient::get_or_create_pool`](crate::AdminClient::get_or_create_pool) for the errors.
    pub fn async_create(&self, query: PoolQuery, request: &GetOrCreatePool) -> Task<PoolInfo> {
        let admin = self.runtime.admin();
        self.finish_creation(request, admin.async_get_or_create_pool(query, request))
    }

    /// As [`Self::async_create`], on a file that was offered over this connection, which the request names from now on.
    /// If the task is dropped before its request is submitted, another file can be offered in the place of this one.
    pub fn async_create_on(
        &self,
        query: PoolQuery,
        request: &mut GetOrCreatePool,
        file: OfferedFile,
    ) -> Task<PoolInfo> {
        request.file = Some(file.number());
        let admin = self.runtime.admin();
        let created = admin.async_get_or_create_pool(query, request);
        self.finish_creation(request, file.during(created))
    }

    fn finish_creation(
        &self,
        request: &GetOrCreatePool,
        created: impl Future<Output = Result<PoolInfo, TaskError>> + Send + 'static,
    ) -> Task<PoolInfo> {
        let (pool, operation) = (
            self.clone(),
            format!("creating the pool \"{}\"", brief(&request.name)),
        );
        Task::of_steps(async move {
            match created.await {
                Ok(info) => {
                    pool.settle(&info);
                    Ok(info)
                }
                Err(error) => Err(error.error.during(operation).into()),
            }
        })
    }

    /// The connection.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The pool's id; [`PoolId::NULL`] until it is known.
    #[inline]
    #[must_use]
    pub fn id(&self) -> PoolId {
        from_word(self.shared.id.load(Ordering::Relaxed))
    }

    /// The incarnation for which holds what is known of the pool; `None` as long as nothing is known.
    #[must_use]
    pub fn incarnation(&self) -> Option<u64> {
        match self.shared.known.load(Ordering::Relaxed) {
            0 => None,
            known => Some(known),
        }
    }

    /// Whether the pool has turned out to be another one than it was, and its contents have not been asked for since.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.shared.has_changed()
    }

    /// Notes that the application has forgotten what may not hold, also where it is not known yet which pool is there
    /// now. In a signal handler that has interrupted another call of its
    /// thread, and in a forked child, this does nothing.
    pub fn accept_change(&self) {
        if self.is_outside_here() {
            self.known_pools().accept_change(&self.shared);
        }
    }

    /// Notes that the application has asked what is in the pool, all of it of this instance of the pool
    /// ([`Call::instance`] of the task).
    ///
    /// # Errors
    /// [`Status::PoolChanged`] if the pool has become another one than that; where [`Self::accept_change`] does
    /// nothing, [`Status::Forked`] and [`Status::Busy`].
    pub fn accept_contents(&self, instance: u32) -> Result<(), Error> {
        if !self.runtime.inner.lanes.is_here() {
            return Err(Error::forked(self.operation()));
        }
        refuse_inside(self.operation())?;
        match self.known_pools().accept_contents(&self.shared, instance) {
            true => Ok(()),
            false => self.check_unchanged_since(self.shared.times_forgotten()),
        }
    }

    fn is_outside_here(&self) -> bool {
        self.runtime.inner.lanes.is_here() && !is_inside()
    }

    /// The call of a method. It is for the pool as it is known now: for another one that has its id later, it fails
    /// with [`Status::PoolChanged`].
    #[inline]
    #[must_use]
    pub fn call(&self, query: PoolQuery, method: u16, arguments: [u64; 3]) -> Call {
        Call {
            pool: self.id(),
            instance: self.shared.ready.load(Ordering::Relaxed),
            query,
            method,
            arguments,
        }
    }

    /// As [`Runtime::call`].
    ///
    /// # Errors
    /// As there, and of the [first use](Self).
    #[inline]
    pub fn carry_out(&self, call: &Call) -> Result<Values, Error> {
        match call.instance {
            0 => self.runtime.call(&self.first(call)?),
            _ => self.runtime.call(call),
        }
    }

    /// As [`Runtime::call_asleep`].
    ///
    /// # Errors
    /// As there, and of the [first use](Self).
    pub fn carry_out_asleep(&self, call: &Call) -> Result<Values, Error> {
        match call.instance {
            0 => self.runtime.call_asleep(&self.first(call)?),
            _ => self.runtime.call_asleep(call),
        }
    }

    /// As [`Runtime::call_receiving`].
    ///
    /// # Errors
    /// As there, and of the [first use](Self).
    #[inline]
    pub fn receive(&self, call: &Call, buffer: BufferSliceMut<'_>) -> Result<Values, Error> {
        match call.instance {
            0 => self.runtime.call_receiving(&self.first(call)?, buffer),
            _ => self.runtime.call_receiving(call, buffer),
        }
    }

    /// As [`Runtime::call_sending`].
    ///
    /// # Errors
    /// As there, and of the [first use](Self).
    #[inline]
    pub fn send(&self, call: &Call, buffer: BufferSlice<'_>) -> Result<Values, Error> {
        match call.instance {
            0 => self.runtime.call_sending(&self.first(call)?, buffer),
            _ => self.runtime.call_sending(call, buffer),
        }
    }

    /// As [`Runtime::submit`]. A failure of the [first use](Self) is the task's.
    #[inline]
    pub fn submit<T: Send + 'static>(
        &self,
        call: Call,
        buffer: Option<Buffer>,
        finish: fn(Finished<'_>) -> Result<T, TaskError>,
    ) -> Task<T> {
        match call.instance {
            0 => self.submit_first(call, buffer, finish),
            _ => self.runtime.submit(call, buffer, finish),
        }
    }

    /// As [`Self::submit`], where the pool has to be attached to first.
    #[cold]
    fn submit_first<T: Send + 'static>(
        &self,
        call: Call,
        buffer: Option<Buffer>,
        finish: fn(Finished<'_>) -> Result<T, TaskError>,
    ) -> Task<T> {
        self.submit_attached(call, buffer, finish, Self::check_unchanged_since)
    }

    /// As [`Self::submit`], for a method that only looks, which works also where the pool has changed: with its result,
    /// [`Self::accept_contents`] is for the module's client to call.
    pub fn submit_look<T: Send + 'static>(
        &self,
        call: Call,
        buffer: Option<Buffer>,
        finish: fn(Finished<'_>) -> Result<T, TaskError>,
    ) -> Task<T> {
        self.submit_attached(call, buffer, finish, |_, _| Ok(()))
    }

    /// Submits a task once the pool is attached to and passes a `check`.
    ///
    /// Waits for the answer if the lane has room for the question. On a full lane that would be to wait for tasks that
    /// only this thread may be able to end, so the question is a step of the task then.
    fn submit_attached<T: Send + 'static>(
        &self,
        call: Call,
        buffer: Option<Buffer>,
        finish: fn(Finished<'_>) -> Result<T, TaskError>,
        check: fn(&Self, u32) -> Result<(), Error>,
    ) -> Task<T> {
        let since = self.shared.times_forgotten();
        let attached = match self.begin_to_attach() {
            None => Ok(()),
            Some(question) if question.is_submitted() => self.settle_answer(question.wait()),
            Some(question) => {
                let pool = self.clone();
                return Task::of_steps(async move {
                    let attached = pool.settle_answer(question.await);
                    match attached.and_then(|()| check(&pool, since)) {
                        Ok(()) => {
                            pool.runtime
                                .submit(pool.attached_call(call), buffer, finish)
                                .await
                        }
                        Err(error) => Refused::new(call, buffer, error).finish(finish),
                    }
                });
            }
        };
        match attached.and_then(|()| check(self, since)) {
            Ok(()) => self
                .runtime
                .submit(self.attached_call(call), buffer, finish),
            Err(error) => Task::refused(Refused::new(call, buffer, error), finish),
        }
    }

    /// As [`Runtime::call_parts_receiving`].
    ///
    /// # Errors
    /// As there, and of the [first use](Self), as those of the first part.
    ///
    /// # Panics
    /// As there.
    pub fn receive_parts(
        &self,
        buffer: BufferSliceMut<'_>,
        parts: impl IntoIterator<Item = (Call, Range<usize>)>,
        done: impl FnMut(usize, &Values),
    ) -> Result<(), PartError> {
        self.ready().map_err(of_first_part)?;
        let parts = self.attached_parts(parts);
        self.runtime.call_parts_receiving(buffer, parts, done)
    }

    /// As [`Runtime::call_parts_sending`].
    ///
    /// # Errors
    /// As there, and of the [first use](Self), as those of the first part.
    ///
    /// # Panics
    /// As there.
    pub fn send_parts(
        &self,
        buffer: BufferSlice<'_>,
        parts: impl IntoIterator<Item = (Call, Range<usize>)>,
        done: impl FnMut(usize, &Values),
    ) -> Result<(), PartError> {
        self.ready().map_err(of_first_part)?;
        let parts = self.attached_parts(parts);
        self.runtime.call_parts_sending(buffer, parts, done)
    }

    /// As [`Runtime::submit_parts`].
    ///
    /// # Errors
    /// As there, and of the [first use](Self), as those of the first part.
    ///
    /// # Panics
    /// As there.
    pub async fn submit_parts(
        &self,
        buffer: Buffer,
        parts: impl IntoIterator<Item = (Call, Range<usize>)>,
        done: impl FnMut(usize, &Values),
    ) -> Result<Buffer, (PartError, Option<Buffer>)> {
        if let Err(error) = self.ready_in_steps().await {
            return Err((of_first_part(error), Some(buffer)));
        }
        let parts = self.attached_parts(parts);
        self.runtime.submit_parts(buffer, parts, done).await
    }

    /// Attaches to the pool if that was not done yet. Blocks for the runtime's answer then, else costs a look.
    ///
    /// # Errors
    /// Those of the [first use](Self).
    #[inline]
    pub fn ready(&self) -> Result<(), Error> {
        match self.shared.ready.load(Ordering::Relaxed) {
            0 => self.become_ready(),
            _ => Ok(()),
        }
    }

    /// A call that was made before the pool was attached to, once it is.
    #[cold]
    fn first(&self, call: &Call) -> Result<Call, Error> {
        self.become_ready()?;
        Ok(self.attached_call(*call))
    }

    /// The call, for the pool that was attached to last.
    fn attached_call(&self, call: Call) -> Call {
        Call {
            pool: self.id(),
            instance: self.shared.instance(),
            ..call
        }
    }

    /// Parts whose calls are all for the pool that was attached to last, also where that is another one meanwhile.
    fn attached_parts<R>(
        &self,
        parts: impl IntoIterator<Item = (Call, R)>,
    ) -> impl Iterator<Item = (Call, R)> {
        let Call { pool, instance, .. } =
            self.attached_call(self.call(PoolQuery::Local, 0, [0; 3]));
        parts.into_iter().map(move |(call, range)| {
            let call = Call {
                pool,
                instance,
                ..call
            };
            (call, range)
        })
    }

    /// As [`Self::ready`], for the steps of a task ([`Task::of_steps`]): does not block.
    async fn ready_in_steps(&self) -> Result<(), Error> {
        let since = self.shared.times_forgotten();
        if let Some(question) = self.begin_to_attach() {
            self.settle_answer(question.await)?;
        }
        self.check_unchanged_since(since)
    }

    #[cold]
    fn become_ready(&self) -> Result<(), Error> {
        let since = self.shared.times_forgotten();
        if let Some(question) = self.begin_to_attach() {
            self.settle_answer(question.wait())?;
        }
        self.check_unchanged_since(since)
    }

    /// Checks what the application knew of the pool when it had forgotten so often.
    #[cold]
    fn check_unchanged_since(&self, times_forgotten: u32) -> Result<(), Error> {
        if !self.has_changed() && self.shared.times_forgotten() == times_forgotten {
            return Ok(());
        }
        Err(Error::new(Status::PoolChanged, self.operation()).with_detail(
            "what is known of its contents does not hold any more: list its blocks first, and see which are yours",
        ))
    }

    /// Asks to be attached to the pool, unless that was done.
    fn begin_to_attach(&self) -> Option<Task<PoolInfo>> {
        let id = self.id();
        // The task for a pool that there cannot be says what helps.
        if self.shared.is_attached() || id.is_null() || id == PoolId::ADMIN {
            return None;
        }
        Some(self.runtime.admin().async_attach_pool(&AttachPool {
            pool: PoolChoice {
                owner: self.shared.owner(),
                ..id.into()
            },
            module: self.module.to_owned(),
            // What there is is asked for if it has changed: so the answer is not needed here.
            incarnation: None,
        }))
    }

    fn settle_answer(&self, answer: Result<PoolInfo, TaskError>) -> Result<(), Error> {
        match answer {
            Ok(info) => self.settle(&info),
            // Somebody else has had it attached meanwhile, perhaps by its new owner's name.
            Err(_) if self.shared.is_attached() => {}
            Err(error) => return Err(Error::from(error).during(self.operation())),
        }
        Ok(())
    }

    fn operation(&self) -> String {
        format!("using pool {}", self.id())
    }

    /// Notes the pool that the session was attached to, also for other values that hold a pool of this id over this
    /// connection.
    fn settle(&self, info: &PoolInfo) {
        // Whoever makes a pool is told that it is new, and knows that nothing is in it.
        let is_new = info.created && !info.opened;
        self.known_pools().settle(info, &self.shared, is_new);
    }

    fn known_pools(&self) -> &KnownPools {
        &self.runtime.inner.connection.pools
    }
}

fn of_first_part(error: Error) -> PartError {
    PartError { part: 0, error }
}

impl fmt::Debug for PoolHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolHandle")
            .field("module", &self.module)
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}
