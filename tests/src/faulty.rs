//! The client of the module that does everything wrong.

use std::path::Path;

use chimaera_bdev_client::{
    Buffer, Error, PoolId, PoolInfo, PoolQuery, Runtime, Status, Task, TaskError,
};
use chimaera_client::{Call, GetOrCreatePool, PoolHandle, Values};
use chimaera_faulty_runtime::{MODULE_NAME, Method, params};

/// A pool of the module that does everything wrong.
#[derive(Clone, Debug)]
pub struct Faulty {
    pool: PoolHandle,
}

impl Faulty {
    /// A client of the pool with this number, which may not be there.
    #[must_use]
    pub fn new(runtime: &Runtime, number: u32) -> Self {
        Self {
            pool: PoolHandle::new(runtime, MODULE_NAME, PoolId::new(6666, number)),
        }
    }

    /// Makes the pool, named after its id. Gives what the host says of it.
    ///
    /// # Errors
    /// Those of creation.
    pub fn create(&self, params: &str) -> Result<PoolInfo, Error> {
        let (id, params) = (self.pool_id(), params.as_bytes().to_vec());
        let request = GetOrCreatePool::new(MODULE_NAME, &format!("faulty {id}"), id, params);
        let created = self.pool.async_create(PoolQuery::Dynamic, &request);
        Ok(created.wait()?)
    }

    /// Makes the pool, which does right whatever it is not asked to do wrong. Gives a client of it.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn created(runtime: &Runtime, number: u32) -> Self {
        let pool = Self::new(runtime, number);
        pool.create("").expect("the pool is made");
        pool
    }

    /// Makes a pool with the number 0 whose flush, and so the end of the daemon, waits for a file.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn whose_flush_waits(runtime: &Runtime, file: &Path) {
        let waits = format!("{}{}", params::FLUSH_WAITS, file.display());
        let pool = Self::new(runtime, 0);
        pool.create(&waits).expect("the pool is made");
    }

    /// The pool's id.
    #[must_use]
    pub fn pool_id(&self) -> PoolId {
        self.pool.id()
    }

    /// Attaches to the pool, so that no later call has to.
    ///
    /// # Panics
    /// If that fails.
    pub fn attach(&self) {
        self.pool.ready().expect("the pool is there");
    }

    /// Has the module do this, and waits for the result.
    ///
    /// # Errors
    /// The task's.
    pub fn call(&self, method: Method) -> Result<Values, Error> {
        self.pool.carry_out(&self.call_of(method))
    }

    /// Has the module fail a task with this status, and gives what the client is told.
    ///
    /// # Errors
    /// The task's, which is what should come of it.
    pub fn fail_with(&self, status: Status) -> Result<Values, Error> {
        let call = self.call_of(Method::FailWith);
        self.pool.carry_out(&Call {
            arguments: [u64::from(status.code()), 0, 0],
            ..call
        })
    }

    /// Has the module do this, without waiting.
    pub fn start(&self, method: Method, buffer: Option<Buffer>) -> Task<(Values, Option<Buffer>)> {
        self.pool
            .submit(self.call_of(method), buffer, |mut finished| {
                let buffer = finished.take_buffer();
                match finished.values() {
                    Ok(values) => Ok((values, buffer)),
                    Err(error) => Err(TaskError::new(error, buffer)),
                }
            })
    }

    /// Has this pool do something with the requests that another pool holds. Gives their number.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn about_held(&self, method: Method, holder: PoolId) -> u64 {
        let call = Call {
            arguments: [u64::from(holder.major), u64::from(holder.minor), 0],
            ..self.call_of(method)
        };
        self.pool.carry_out(&call).expect("the module counts")[0]
    }

    fn call_of(&self, method: Method) -> Call {
        self.pool.call(PoolQuery::Local, method as u16, [7, 0, 0])
    }
}
