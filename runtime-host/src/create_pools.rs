//! Making pools: a creation request finds the pool that it asks for, or has its module make one.

use std::sync::Arc;

use chimaera_chimod::host::NewPool;
use chimaera_chimod::{CreateAgain, ModuleError};
use chimaera_proto::admin::{GetOrCreatePool, PoolInfo};
use chimaera_proto::limits::{MAX_CREATE_PARAMS_BYTES, MAX_POOL_NAME_BYTES};
use chimaera_proto::{PoolId, Status};

use crate::control_side::ControlSide;
use crate::log;
use crate::messages::WorkerCommand;
use crate::pool_container::PoolContainer;
use crate::pools::Pool;
use crate::pools::errors::with_whose_panic;
use crate::pools::lookup::{PoolLookup, PoolReservation};
use crate::session::Peer;
use crate::speakers::Speaker;

impl ControlSide {
    /// Gives the pool that a client asks for, made by its module if it does not exist yet. If it is refused, the log
    /// says why. Blocks.
    pub(crate) fn get_or_create_pool(
        &self,
        asked: &GetOrCreatePool,
        client: Peer,
    ) -> Result<PoolInfo, ModuleError> {
        let given = self.find_or_create_pool(asked, client);
        given.inspect_err(|error| self.refused_pools.log(asked, client, error))
    }

    fn find_or_create_pool(
        &self,
        asked: &GetOrCreatePool,
        client: Peer,
    ) -> Result<PoolInfo, ModuleError> {
        check_creation(asked)?;
        match self
            .pools
            .find_or_reserve(&asked.name, asked.id, &asked.module)?
        {
            PoolLookup::Existing(pool) => {
                let info = pool.info(false);
                if info.module != asked.module {
                    return Err(ModuleError::new(
                        Status::ParameterMismatch,
                        format!(
                            "pool {} exists with module {}, asked for {}",
                            asked.name, info.module, asked.module
                        ),
                    ));
                }
                let again = CreateAgain {
                    creator: client.into(),
                    params: &asked.params,
                };
                let taken = pool.container.create_again(again);
                taken.map_err(|error| with_whose_panic(error, &asked.name, &asked.module))?;
                Ok(info)
            }
            PoolLookup::Reserved(reservation) => self
                .create_pool(reservation, asked, client)
                .map_err(|error| with_whose_panic(error, &asked.name, &asked.module)),
        }
    }

    /// Makes a pool. If that fails, the container is dropped before the reservation: whoever waits for the name finds
    /// the container's device free, for example.
    fn create_pool(
        &self,
        mut reservation: PoolReservation<'_>,
        asked: &GetOrCreatePool,
        client: Peer,
    ) -> Result<PoolInfo, ModuleError> {
        self.modules.check_client(&asked.module, client)?;
        let module = self.modules.get(&asked.module)?;
        let speaker = Speaker::new(module.name(), &asked.name);
        let new = NewPool {
            id: reservation.id(),
            id_is_chosen: asked.id.is_null(),
            name: &asked.name,
            params: &asked.params,
            creator: client.into(),
            worker_count: self.inboxes.by_worker.len() as u32,
            speaker: speaker.number(),
        };
        let made = speaker.during(|| module.create(Arc::clone(&self.table), &new));
        let container = PoolContainer::new(made?, speaker);
        settle_id(&mut reservation, asked, &container)?;
        let id = reservation.id();
        container.speaker().set_id(id);
        let opened = container.was_opened()?;
        let pool = Arc::new(Pool {
            id,
            name: asked.name.clone(),
            opened,
            container,
        });
        self.ask_workers(|done| WorkerCommand::AddPool {
            pool: Arc::clone(&pool),
            done,
        });
        let info = pool.info(true);
        reservation.publish(pool);
        let came = if opened { "opened" } else { "created" };
        log::info(format_args!(
            "pool {came}: {id} {}, module {}, for {client}",
            asked.name, asked.module
        ));
        Ok(info)
    }
}

/// Gives the pool the id that its container says is recorded for it, if there is one.
fn settle_id(
    reservation: &mut PoolReservation<'_>,
    asked: &GetOrCreatePool,
    container: &PoolContainer,
) -> Result<(), ModuleError> {
    match container.pool_id()? {
        Some(own) if asked.id.is_null() => reservation.move_to(own),
        Some(own) if own != asked.id => Err(ModuleError::new(
            Status::ParameterMismatch,
            format!(
                "pool {}: its file or device records the id {own}, asked for {}: ask for that id, or for none",
                asked.name, asked.id
            ),
        )),
        _ => Ok(()),
    }
}

fn check_creation(asked: &GetOrCreatePool) -> Result<(), ModuleError> {
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
    if asked.params.len() > MAX_CREATE_PARAMS_BYTES {
        return invalid(format!(
            "creation parameters have at most {MAX_CREATE_PARAMS_BYTES} bytes, not {}",
            asked.params.len()
        ));
    }
    Ok(())
}
