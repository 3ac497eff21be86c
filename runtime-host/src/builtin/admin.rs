//! The admin module: pools and the runtime itself, as tasks of pool 1.0.
//!
//! Its tasks come in on workers like any other, and are carried out on threads that may block.

use std::ptr::NonNull;
use std::sync::Arc;

use chimaera_chimod::abi::RawTask;
use chimaera_chimod::{ModuleError, Request};
use chimaera_proto::accounts::ListSessions;
use chimaera_proto::admin::{
    AttachPool, DestroyPool, FindPool, FlushPools, ListPools, Method, PoolChoice, PoolInfo,
    PoolKey, PoolList, PoolName, SetPermissions,
};
use chimaera_proto::limits::{ADMIN_BUFFER_BYTES, MAX_ERROR_TEXT_BYTES};
use chimaera_proto::shown::quoted;
use chimaera_proto::{Permissions, PoolId, Right, Status, codec};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::accounts::{Charge, Exceeded, Resource};
use crate::caller::Caller;
use crate::control_side::ControlSide;
use crate::create_pools::{check_group, check_mode, check_owner};
use crate::log::{self, Level, Source};
use crate::messages::ControlEvent;
use crate::messages::WorkerCommand;
use crate::pools::errors::{of_another_module, shutting_down, with_whose_panic};
use crate::reply_gate::ReplyGate;

/// The admin module's end on a worker.
#[derive(Clone)]
pub(crate) struct Admin {
    shared: Arc<ControlSide>,
}

impl Admin {
    pub(crate) fn new(shared: Arc<ControlSide>) -> Self {
        Self { shared }
    }

    /// Takes a task of a client's. Does not block.
    ///
    /// # Safety
    /// As for a container: each task is handed over once, and stays as it is until it completes,
    /// as does the mapping of its buffer.
    pub(crate) unsafe fn submit(&self, task: NonNull<RawTask>, caller: &Arc<Caller>) {
        // SAFETY: the table lives as long as `shared`, which every holder of the request keeps.
        let host = unsafe { chimaera_chimod::Host::from_table(Arc::as_ptr(&self.shared.table)) };
        // SAFETY: by this function's contract.
        let request = unsafe { Request::from_raw(task, host) };
        match Method::from_number(request.method()) {
            Some(Method::Ping) => request.complete(&[]),
            Some(method) => match charge_job(caller) {
                Ok(charge) => {
                    let job = AdminJob {
                        request,
                        caller: Arc::clone(caller),
                        shared: Arc::clone(&self.shared),
                        _charge: charge,
                    };
                    let threads = self.shared.threads.of(method);
                    threads.run_for(caller.job_owner(), move || job.carry_out(method));
                }
                Err(exceeded) => respond(request, Err(exceeded.into()), &self.shared.replies),
            },
            None => request.fail(Status::UnknownMethod),
        }
    }
}

/// An admin task on a thread that may block. Fields drop in order: the request first, which
/// needs the host's table.
struct AdminJob {
    request: Request,
    caller: Arc<Caller>,
    shared: Arc<ControlSide>,
    _charge: Option<Charge>,
}

impl AdminJob {
    fn carry_out(self, method: Method) {
        let shared = &self.shared;
        let (request, caller) = (&self.request, &self.caller);
        // Set only when the request has been decoded: a task meant for another module may have this method's number.
        let mut stops = false;
        let reply = match method {
            Method::Ping => encode(&()),
            Method::GetOrCreatePool => {
                answer(request, |asked| shared.get_or_create_pool(&asked, caller))
            }
            Method::AttachPool => answer(request, |asked| shared.attach_pool(&asked, caller)),
            Method::SetPermissions => {
                answer(request, |asked| shared.set_permissions(&asked, caller))
            }
            Method::DestroyPool => answer(request, |asked| shared.destroy_pool(&asked, caller)),
            Method::ListPools => answer(request, |asked: ListPools| {
                Ok(shared.list_pools(asked.after, caller))
            }),
            Method::FindPool => answer(request, |asked: FindPool| {
                let pool = shared.pools.find(&asked.pool, caller)?;
                pool.require_any(caller)?;
                Ok(pool.info(false, caller))
            }),
            Method::FlushPools => answer(request, |asked: FlushPools| {
                shared.flush_pools(asked.pool.as_ref(), caller)
            }),
            Method::StopRuntime => answer(request, |()| {
                caller.check_operator("to stop the runtime")?;
                stops = true;
                log::info(format_args!("stopping, as {caller} asks"));
                self.shared.end_all_pools()
            }),
            Method::GetStatus => answer(request, |()| {
                Ok(shared.status(caller.is_operator(), shared.modules.list()))
            }),
            Method::ListSessions => answer(request, |asked: ListSessions| {
                Ok(shared.sessions.page(&asked, &shared.accounts, caller))
            }),
        };
        respond(self.request, reply, &self.shared.replies);
        if stops {
            // The answer is in its worker's inbox before anything that stopping sends there. Sessions end even if
            // nobody waits for the host to be stopped, as in an application that embeds it.
            self.shared.events.send(ControlEvent::Stop);
            self.shared.stopper.stop();
        }
    }
}

impl ControlSide {
    /// Attaches a client to a pool that is in use.
    fn attach_pool(
        &self,
        asked: &AttachPool,
        caller: &Arc<Caller>,
    ) -> Result<PoolInfo, ModuleError> {
        let pool = self.pools.find(&asked.pool, caller)?;
        pool.require_any(caller)?;
        let module = pool.container.module().name();
        if module != asked.module {
            return Err(of_another_module(&pool.name, module, &asked.module));
        }
        self.attach(&pool, caller, asked.incarnation)?;
        Ok(pool.info(false, caller))
    }

    /// Gives a pool other permissions: on its device, then in the registry, then at every worker. Workers are told what
    /// is recorded, whatever fails.
    fn set_permissions(
        &self,
        asked: &SetPermissions,
        caller: &Arc<Caller>,
    ) -> Result<PoolInfo, ModuleError> {
        let pool = self.pools.find(&asked.pool, caller)?;
        let _one_at_a_time = pool.changing_permissions.lock();
        // Only now is it known whose the pool is: another change may have come first.
        pool.require(Right::Manage, caller)?;
        let before = pool.permissions();
        let after = Permissions {
            owner: asked.new_owner.unwrap_or(before.owner),
            group: asked.new_group.unwrap_or(before.group),
            mode: asked.new_mode.unwrap_or(before.mode),
        };
        check_mode(after.mode)?;
        if after.owner != before.owner {
            check_owner(after.owner)?;
            caller.check_operator("to give a pool another owner")?;
        }
        if after.group != before.group {
            check_group(after.group, caller)?;
        }
        if after == before {
            return Ok(pool.info(false, caller));
        }
        // Whether the new owner may have it is known before anything is recorded, and stays so.
        let reserved = self.pools.reserve_for(&pool, after.owner)?;
        let recorded = pool.container.set_permissions(after);
        let recorded = recorded
            .map_err(|error| with_whose_panic(error, &pool.name, pool.container.module().name()));
        let is_recorded = recorded.is_ok();
        let entered = recorded.and_then(|()| {
            let entered = self.pools.set_permissions(&pool, after, reserved);
            entered.map_err(|mut error| {
                error.message += "; where it outlasts that, its other permissions are recorded";
                error
            })
        });
        let (number, now) = (pool.number, if is_recorded { after } else { before });
        // Also where that is what they know already: nothing leaves them with anything else than what is recorded.
        self.ask_workers(|done| WorkerCommand::SetPermissions {
            pool: number,
            permissions: now,
            done,
        });
        entered?;
        pool.container.speaker().give_account_to(after.owner);
        let line = format_args!(
            "pool {}: {}: {after} now, for {caller}",
            quoted(&pool.name),
            pool.id
        );
        log::say_for(caller.limited_user(), Level::Info, Source::Host, line);
        Ok(pool.info(false, caller))
    }

    /// Takes a pool out of use, waits for its tasks in flight, and destroys it.
    fn destroy_pool(&self, asked: &DestroyPool, caller: &Caller) -> Result<(), ModuleError> {
        if asked.pool.pool == PoolName::Id(PoolId::ADMIN) {
            return Err(ModuleError::new(
                Status::PermissionDenied,
                format!(
                    "pool {} is the admin pool, which cannot be destroyed",
                    PoolId::ADMIN
                ),
            ));
        }
        let pool = self.pools.withdraw(&asked.pool, caller)?;
        let key = pool.key();
        let flushed = self.end_pool(pool, Some(caller));
        self.pools.release(key);
        flushed.map_err(|mut error| {
            error.message +=
                ". The pool is gone all the same, and what was done last in it may be lost";
            error
        })
    }

    fn list_pools(&self, after: Option<PoolKey>, caller: &Caller) -> PoolList {
        let mut left = ADMIN_BUFFER_BYTES as usize / 2;
        let visible = self.pools.list().into_iter();
        let visible = visible.filter(|pool| !pool.rights_of(caller).is_none());
        let mut rest = visible
            .map(|pool| pool.info(false, caller))
            .skip_while(|pool| after.is_some_and(|after| pool.key() <= after))
            .peekable();
        let mut pools = Vec::new();
        while let Some(pool) = rest.next_if(|pool| {
            let len = pool.name.len() + pool.module.len() + 64;
            let fits = len <= left;
            left = left.saturating_sub(len);
            fits
        }) {
            pools.push(pool);
        }
        PoolList {
            pools,
            more: rest.peek().is_some(),
        }
    }

    /// Flushes a pool, or all that somebody may flush.
    fn flush_pools(&self, choice: Option<&PoolChoice>, caller: &Caller) -> Result<(), ModuleError> {
        if let Some(choice) = choice {
            let pool = self.pools.find(choice, caller)?;
            pool.require(Right::Write, caller)?;
            return pool.flush();
        }
        if self.pools.is_closed() {
            // Some pools are being ended, and not flushed yet.
            return Err(shutting_down());
        }
        let mut result = Ok(());
        // One by one: a pool that is held here cannot end.
        let keys: Vec<_> = self.pools.list().iter().map(|pool| pool.key()).collect();
        for PoolKey { id, owner } in keys {
            let choice = PoolChoice {
                owner: Some(owner),
                ..id.into()
            };
            // A pool that ended meanwhile was flushed as it did.
            let Ok(pool) = self.pools.find(&choice, caller) else {
                continue;
            };
            if !pool.rights_of(caller).has(Right::Write) {
                continue;
            }
            // A failure does not keep the other pools from being flushed.
            if let Err(mut error) = pool.flush() {
                // A panic's text names the pool already.
                if error.failure.status != Status::ModulePanicked {
                    error.message = format!("pool {}: {}", pool.name, error.message);
                }
                result = result.and(Err(error));
            }
        }
        result
    }
}

/// Counts a request, unless it is an operator's, which waits for none of a user's.
fn charge_job(caller: &Caller) -> Result<Option<Charge>, Exceeded> {
    let is_counted = caller.account.is_limited();
    is_counted
        .then(|| caller.account.charge(Resource::Jobs, 1))
        .transpose()
}

/// Reads a task's request, acts on it and encodes the reply.
fn answer<Asked: DeserializeOwned, Reply: Serialize>(
    request: &Request,
    act: impl FnOnce(Asked) -> Result<Reply, ModuleError>,
) -> Result<Vec<u8>, ModuleError> {
    let invalid = |text: String| ModuleError::new(Status::InvalidArgument, text);
    let buffer = request
        .buffer()
        .ok_or_else(|| invalid("the request has no buffer".to_owned()))?;
    if buffer.len() < ADMIN_BUFFER_BYTES as usize {
        return Err(invalid(format!(
            "an admin task's buffer has {ADMIN_BUFFER_BYTES} bytes"
        )));
    }
    let [len, ..] = request.arguments();
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > ADMIN_BUFFER_BYTES as usize {
        return Err(invalid(format!(
            "a request of {len} bytes does not fit its buffer"
        )));
    }
    let mut bytes = vec![0; len];
    buffer.copy_to(0, &mut bytes);
    let asked = codec::decode(&bytes).map_err(|error| invalid(error.to_string()))?;
    encode(&act(asked)?)
}

fn encode<Reply: Serialize>(reply: &Reply) -> Result<Vec<u8>, ModuleError> {
    codec::encode(reply).map_err(|error| ModuleError::new(Status::Aborted, error.to_string()))
}

/// Completes a task with its reply, or with the text of its error.
fn respond(request: Request, reply: Result<Vec<u8>, ModuleError>, gate: &ReplyGate) {
    let write = |bytes: &[u8]| {
        let buffer = request.writable_buffer()?;
        if bytes.len() > buffer.len() {
            return None;
        }
        gate.pass(|| buffer.copy_from(0, bytes))?;
        Some(bytes.len() as u64)
    };
    match reply {
        Ok(bytes) => match write(&bytes) {
            Some(len) => request.complete(&[len]),
            None => request.fail(Status::InvalidBuffer),
        },
        Err(error) => {
            let text = &error.message[..error.message.floor_char_boundary(MAX_ERROR_TEXT_BYTES)];
            let len = write(text.as_bytes()).unwrap_or(0);
            request.fail_with(error.failure, &[len]);
        }
    }
}
