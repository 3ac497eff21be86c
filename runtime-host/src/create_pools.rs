//! Making pools: a creation request finds the pool that it asks for, or has its module make one.
//!
//! Law: a creation that fails leaves no pool behind, neither one that was made for it nor one that was opened. Whoever
//! is refused may remove the file that was to have the pool, and asks again for what is there.

use std::hash::{BuildHasher, RandomState};
use std::os::fd::AsFd;
use std::sync::Arc;

use chimaera_chimod::host::NewPool;
use chimaera_chimod::{CreateAgain, Incarnation, ModuleError};
use chimaera_proto::admin::{GetOrCreatePool, PoolInfo, PoolKey};
use chimaera_proto::hangs::ModuleCall;
use chimaera_proto::limits::{MAX_CREATE_PARAMS_BYTES, MAX_POOL_NAME_BYTES};
use chimaera_proto::rights::{DEFAULT_MODE, MODE_BITS, OVERFLOW_ID};
use chimaera_proto::shown::quoted;
use chimaera_proto::{Permissions, PoolId, Right, Status};

use crate::accounts::PoolAccount;
use crate::caller::{Caller, ClientFile, denied};
use crate::control_side::ControlSide;
use crate::log::{self, Level, Source};
use crate::messages::WorkerCommand;
use crate::pool_container::PoolContainer;
use crate::pools::errors::{
    changed, of_another_module, opened_by_neither, recorded_for_another, with_whose_panic,
};
use crate::pools::lookup::{PoolLookup, PoolReservation};
use crate::pools::{Pool, PoolParts};
use crate::speakers::Speaker;

impl ControlSide {
    /// Gives the pool that a client asks for, made by its module if it does not exist yet, and attaches the client to
    /// it. If it is refused, the log says why. Blocks.
    pub(crate) fn get_or_create_pool(
        &self,
        asked: &GetOrCreatePool,
        caller: &Arc<Caller>,
    ) -> Result<PoolInfo, ModuleError> {
        let file = asked.file.map(|number| caller.take_offered(number));
        let given = file.transpose().and_then(|file| {
            let given = self.find_or_create_pool(asked, file.as_ref(), caller);
            if let Some(file) = file {
                // Closing some kinds of files takes as long as their owner likes.
                self.threads.closers.run(move || drop(file));
            }
            given
        });
        given.inspect_err(|error| self.refused_pools.log(asked, caller.peer, error))
    }

    fn find_or_create_pool(
        &self,
        asked: &GetOrCreatePool,
        file: Option<&ClientFile>,
        caller: &Arc<Caller>,
    ) -> Result<PoolInfo, ModuleError> {
        check_creation(asked, caller)?;
        match self.pools.find_or_reserve(asked, caller)? {
            PoolLookup::Existing(pool) => {
                let module = pool.container.module().name();
                if module != asked.module {
                    return Err(of_another_module(&pool.name, module, &asked.module));
                }
                // Before anything is changed for a request that fails.
                self.check_attach(&pool, caller, asked.incarnation)?;
                let again = CreateAgain {
                    creator: (&**caller).into(),
                    may_manage: pool.rights_of(caller).has(Right::Manage),
                    params: &asked.params,
                };
                let taken = pool.container.create_again(again);
                taken.map_err(|error| with_whose_panic(error, &asked.name, &asked.module))?;
                self.attach(&pool, caller, asked.incarnation)?;
                Ok(pool.info(false, caller))
            }
            PoolLookup::Reserved(reservation) => self
                .create_pool(reservation, asked, file, caller)
                .map_err(|error| with_whose_panic(error, &asked.name, &asked.module)),
        }
    }

    /// Makes a pool. If that fails, the container is dropped before the reservation: whoever waits for the name finds
    /// the container's device free, for example.
    fn create_pool(
        &self,
        mut reservation: PoolReservation<'_>,
        asked: &GetOrCreatePool,
        file: Option<&ClientFile>,
        caller: &Arc<Caller>,
    ) -> Result<PoolInfo, ModuleError> {
        self.modules.check_client(&asked.module, caller)?;
        let key = reservation.key();
        // Whatever can be known before it is checked before: the module may write to a device.
        caller.check_may_attach(key.id, |number| self.pools.is_live(number))?;
        let module = self.modules.get(&asked.module)?;
        let holder = self.accounts.holder(key.owner, caller.is_operator());
        let account = PoolAccount::open(holder)?;
        let speaker = Speaker::new(module.name(), &asked.name, account);
        let folders = self.allowed_paths.folders();
        let new = NewPool {
            id: key.id,
            id_is_chosen: asked.id.is_null(),
            name: &asked.name,
            params: &asked.params,
            creator: (&**caller).into(),
            permissions: Permissions {
                group: asked.group.unwrap_or(caller.peer.group_id),
                mode: asked.mode.unwrap_or(DEFAULT_MODE),
                owner: key.owner,
            },
            worker_count: self.inboxes.by_worker.len() as u32,
            speaker: speaker.number(),
            file: file.map(AsFd::as_fd),
            allowed: self.allowed_paths.of(&folders),
        };
        let made = speaker.during(ModuleCall::Create, || {
            module.create(Arc::clone(&self.table), &new)
        });
        let container = PoolContainer::new(made?, speaker);
        let pool = self.settle(
            &mut reservation,
            (container, new.permissions),
            asked,
            caller,
        )?;
        // Nothing can fail any more.
        self.ask_workers(|done| WorkerCommand::AddPool {
            pool: Arc::clone(&pool),
            done,
        });
        self.let_tasks_reach(&pool, caller);
        let info = pool.info(true, caller);
        reservation.publish(pool);
        let came = if info.opened { "opened" } else { "created" };
        let line = format_args!(
            "pool {came}: {} {}, module {}, {}, for {caller}",
            info.id,
            quoted(&info.name),
            info.module,
            info.permissions
        );
        log::say_for(caller.limited_user(), Level::Info, Source::Host, line);
        Ok(info)
    }

    /// Settles what the pool of a new container is, whose it is and that its creator may use it. If not, the container
    /// is dropped: nothing was done in the pool, and one that was opened ends as it was.
    ///
    /// So a pool that was opened for a client who knows another incarnation of it ends too, which is one more end in
    /// good order: whoever knows the incarnation that ended before is then told as well that the pool has changed. The
    /// alternative would be a pool that is in use though everybody who asked for it was refused.
    fn settle(
        &self,
        reservation: &mut PoolReservation<'_>,
        (container, permissions): (PoolContainer, Permissions),
        asked: &GetOrCreatePool,
        caller: &Arc<Caller>,
    ) -> Result<Arc<Pool>, ModuleError> {
        let key = reservation.key();
        let id = settle_id(key.id, asked, container.pool_id()?)?;
        let opened = container.was_opened()?;
        let incarnation = container.incarnation()?.unwrap_or_else(drawn_incarnation);
        let permissions = container.permissions()?.unwrap_or(permissions);
        let owner = permissions.owner;
        if owner != caller.peer.user_id && !caller.is_operator() {
            return Err(opened_by_neither(&asked.name, owner));
        }
        if owner != key.owner && !self.pools.is_for(owner, caller) {
            return Err(recorded_for_another(&asked.name, owner));
        }
        reservation.move_to(PoolKey { id, owner })?;
        container.speaker().set_id(id);
        if owner != key.owner {
            container.speaker().give_account_to(owner);
        }
        let pool = Arc::new(Pool::new(PoolParts {
            id,
            name: asked.name.clone(),
            opened,
            incarnation,
            permissions,
            container,
        }));
        pool.require_any(caller)?;
        check_incarnation(&pool, asked.incarnation)?;
        reservation.set_number(pool.number);
        caller.attach(id, pool.number, |number| self.pools.is_live(number))?;
        Ok(pool)
    }

    /// Attaches a client to a pool: tasks that it sends from now on find the pool by its id. `known` is the incarnation
    /// for which what the client knows of the pool holds.
    pub(crate) fn attach(
        &self,
        pool: &Pool,
        caller: &Arc<Caller>,
        known: Option<u64>,
    ) -> Result<(), ModuleError> {
        check_incarnation(pool, known)?;
        caller.attach(pool.id, pool.number, |number| self.pools.is_live(number))?;
        self.let_tasks_reach(pool, caller);
        Ok(())
    }

    /// Checks that a client could be attached to a pool that is in use.
    fn check_attach(
        &self,
        pool: &Pool,
        caller: &Caller,
        known: Option<u64>,
    ) -> Result<(), ModuleError> {
        check_incarnation(pool, known)?;
        let is_other = |number| number != pool.number && self.pools.is_live(number);
        caller.check_may_attach(pool.id, is_other)
    }

    /// Has every worker take tasks for a pool of a client that is attached to it.
    fn let_tasks_reach(&self, pool: &Pool, caller: &Arc<Caller>) {
        self.ask_workers(|done| WorkerCommand::Attach {
            caller: Arc::clone(caller),
            id: pool.id,
            pool: pool.number,
            done,
        });
    }
}

/// Checks that what a client knows of a pool holds, if it knows anything.
fn check_incarnation(pool: &Pool, known: Option<u64>) -> Result<(), ModuleError> {
    let Incarnation {
        current,
        predecessor,
    } = pool.incarnation;
    if known.is_none_or(|known| known == current || Some(known) == predecessor) {
        return Ok(());
    }
    Err(changed(&pool.name))
}

/// The id that a pool gets: the one that its container says is recorded for it, if there is one.
fn settle_id(
    reserved: PoolId,
    asked: &GetOrCreatePool,
    recorded: Option<PoolId>,
) -> Result<PoolId, ModuleError> {
    match recorded {
        Some(own) if asked.id.is_null() => Ok(own),
        Some(own) if own != asked.id => Err(ModuleError::new(
            Status::ParameterMismatch,
            format!(
                "pool {}: its file or device records the id {own}, asked for {}: ask for that id, or for none",
                asked.name, asked.id
            ),
        )),
        _ => Ok(reserved),
    }
}

/// The incarnation of a pool whose module has none: nothing that was known of an earlier pool holds.
fn drawn_incarnation() -> Incarnation {
    let drawn = || RandomState::new().hash_one(());
    Incarnation {
        current: drawn().max(1),
        predecessor: None,
    }
}

fn check_creation(asked: &GetOrCreatePool, caller: &Caller) -> Result<(), ModuleError> {
    let invalid = |text: String| Err(ModuleError::new(Status::InvalidArgument, text));
    if asked.name.is_empty() || asked.name.len() > MAX_POOL_NAME_BYTES {
        return invalid(format!(
            "a pool's name has from 1 to {MAX_POOL_NAME_BYTES} bytes, not {}",
            asked.name.len()
        ));
    }
    if asked.name.contains('\0') {
        return invalid("a pool's name contains no zero byte".to_owned());
    }
    if asked.id == PoolId::ADMIN {
        return invalid(format!(
            "pool id {} is the admin pool's: choose another",
            asked.id
        ));
    }
    if let Some(mode) = asked.mode {
        check_mode(mode)?;
    }
    if let Some(owner) = asked.owner {
        check_owner(owner)?;
    }
    if let Some(group) = asked.group {
        check_group(group, caller)?;
    }
    if asked.params.len() > MAX_CREATE_PARAMS_BYTES {
        return invalid(format!(
            "creation parameters have at most {MAX_CREATE_PARAMS_BYTES} bytes, not {}",
            asked.params.len()
        ));
    }
    Ok(())
}

/// Checks that this is the number of a user or group to which something can belong.
fn check_is_somebody(kind: &str, id: u32) -> Result<(), ModuleError> {
    // The second one stands for "as it is" wherever the kernel takes an owner.
    if ![OVERFLOW_ID, u32::MAX].contains(&id) {
        return Ok(());
    }
    Err(ModuleError::new(
        Status::InvalidArgument,
        format!("{kind} {id} is nobody's number and owns nothing: name another {kind}"),
    ))
}

/// Checks that a pool can have this mode.
pub(crate) fn check_mode(mode: u16) -> Result<(), ModuleError> {
    match mode & !MODE_BITS {
        0 => Ok(()),
        _ => Err(ModuleError::new(
            Status::InvalidArgument,
            format!(
                "a pool's mode is from 0 to {MODE_BITS:04o}, not {mode:04o}: it has no other bits"
            ),
        )),
    }
}

/// Checks that a pool can be this user's.
pub(crate) fn check_owner(owner: u32) -> Result<(), ModuleError> {
    check_is_somebody("user", owner)
}

/// Checks that somebody may give a pool to this group.
pub(crate) fn check_group(group: u32, caller: &Caller) -> Result<(), ModuleError> {
    check_is_somebody("group", group)?;
    if caller.is_operator() || caller.is_in_group(group) {
        return Ok(());
    }
    Err(denied(format!(
        "user {} is no member of group {group} by this connection: name one of its groups, or connect anew if it has \
         become a member since",
        caller.peer.user_id
    )))
}
