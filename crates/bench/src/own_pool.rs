//! A pool that ends with the measurement that has made it.

use std::ops::Deref;

use chimaera_bdev_client::Client;

/// A client whose pool is destroyed with it.
pub(crate) struct OwnPool(pub(crate) Client);

impl Deref for OwnPool {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0
    }
}

impl Drop for OwnPool {
    fn drop(&mut self) {
        // The pool may never have been made; then that error was reported.
        let _ = self.runtime().admin().destroy_pool(self.pool_id());
    }
}
