//! The admin module: pools and the runtime itself, as tasks of pool 1.0.
//!
//! Its tasks come in on workers like any other, and are carried out on threads that may block.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chimaera_chimod::abi::RawTask;
use chimaera_chimod::{ModuleError, Request};
use chimaera_proto::admin::{
    DestroyPool, FindPool, FlushPools, ListPools, Method, PoolList, RuntimeStatus,
};
use chimaera_proto::limits::{ADMIN_BUFFER_BYTES, MAX_ERROR_TEXT_BYTES};
use chimaera_proto::{PoolId, Status, codec};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control_side::ControlSide;
use crate::log;
use crate::messages::ControlEvent;
use crate::pools::errors::shutting_down;
use crate::session::Peer;

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
    pub(crate) unsafe fn submit(&self, task: NonNull<RawTask>, client: Peer) {
        // SAFETY: the table lives as long as `shared`, which every holder of the request keeps.
        let host = unsafe { chimaera_chimod::Host::from_table(Arc::as_ptr(&self.shared.table)) };
        // SAFETY: by this function's contract.
        let request = unsafe { Request::from_raw(task, host) };
        match Method::from_number(request.method()) {
            Some(Method::Ping) => request.complete(&[]),
            Some(method) => {
                let job = AdminJob {
                    request,
                    client,
                    shared: Arc::clone(&self.shared),
                };
                let threads = self.shared.threads.of(method);
                threads.run(move || job.carry_out(method));
            }
            None => request.fail(Status::UnknownMethod),
        }
    }
}

/// An admin task on a thread that may block. Fields drop in order: the request first, which
/// needs the host's table.
struct AdminJob {
    request: Request,
    client: Peer,
    shared: Arc<ControlSide>,
}

impl AdminJob {
    fn carry_out(self, method: Method) {
        let shared = &self.shared;
        let request = &self.request;
        // Set only when the request has been decoded: a task meant for another module may have this method's number.
        let mut stops = false;
        let reply = match method {
            Method::Ping => encode(&()),
            Method::GetOrCreatePool => answer(request, |asked| {
                shared.get_or_create_pool(&asked, self.client)
            }),
            Method::DestroyPool => answer(request, |asked: DestroyPool| {
                shared.destroy_pool(asked.id, self.client)
            }),
            Method::ListPools => answer(request, |asked: ListPools| {
                Ok(shared.list_pools(asked.after))
            }),
            Method::FindPool => answer(request, |asked: FindPool| {
                Ok(shared.pools.find(&asked.name)?.info(false))
            }),
            Method::FlushPools => answer(request, |asked: FlushPools| shared.flush_pools(asked.id)),
            Method::StopRuntime => answer(request, |()| {
                stops = true;
                log::info(format_args!("stopping, as {} asks", self.client));
                self.shared.end_all_pools()
            }),
            Method::GetStatus => answer(request, |()| Ok(shared.status())),
        };
        respond(self.request, reply);
        if stops {
            // The answer is in its worker's inbox before anything that stopping sends there. Sessions end even if
            // nobody waits for the host to be stopped, as in an application that embeds it.
            self.shared.events.send(ControlEvent::Stop);
            self.shared.stopper.stop();
        }
    }
}

impl ControlSide {
    /// Takes a pool out of use, waits for its tasks in flight, and destroys it.
    fn destroy_pool(&self, id: PoolId, client: Peer) -> Result<(), ModuleError> {
        if id == PoolId::ADMIN {
            return Err(ModuleError::new(
                Status::PermissionDenied,
                format!("pool {id} is the admin pool, which cannot be destroyed"),
            ));
        }
        let pool = self.pools.withdraw(id)?;
        let flushed = self.end_pool(pool, Some(client));
        self.pools.release(id);
        flushed.map_err(|mut error| {
            error.message +=
                ". The pool is gone all the same, and what was done last in it may be lost";
            error
        })
    }

    fn list_pools(&self, after: Option<PoolId>) -> PoolList {
        let mut left = ADMIN_BUFFER_BYTES as usize / 2;
        let mut rest = self
            .pools
            .list()
            .into_iter()
            .skip_while(|pool| after.is_some_and(|after| pool.id <= after))
            .peekable();
        let mut pools = Vec::new();
        while let Some(pool) = rest.next_if(|pool| {
            let len = pool.name.len() + pool.module.len() + 32;
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

    fn flush_pools(&self, id: Option<PoolId>) -> Result<(), ModuleError> {
        if let Some(id) = id {
            return self.pools.get(id)?.flush();
        }
        if self.pools.is_closed() {
            // Some pools are being ended, and not flushed yet.
            return Err(shutting_down());
        }
        let mut result = Ok(());
        for info in self.pools.list() {
            // A pool that ended meanwhile was flushed as it did.
            let Ok(pool) = self.pools.get(info.id) else {
                continue;
            };
            // A failure does not keep the other pools from being flushed.
            if let Err(mut error) = pool.flush() {
                // A panic's text names the pool already.
                if error.failure.status != Status::ModulePanicked {
                    error.message = format!("pool {}: {}", info.name, error.message);
                }
                result = result.and(Err(error));
            }
        }
        result
    }

    fn status(&self) -> RuntimeStatus {
        let (changing_count, changing) = self.pools.changing();
        RuntimeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process_id: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            worker_count: self.inboxes.by_worker.len() as u32,
            session_count: self.session_count.load(Ordering::Relaxed),
            is_stopping: self.pools.is_closed(),
            pool_count: self.pools.list().len() as u32,
            changing_count: changing_count as u32,
            changing,
            modules: self.modules.list(),
            log: log::status(),
        }
    }
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
fn respond(request: Request, reply: Result<Vec<u8>, ModuleError>) {
    let write = |bytes: &[u8]| {
        let buffer = request.writable_buffer()?;
        (bytes.len() <= buffer.len()).then(|| buffer.copy_from(0, bytes))?;
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
