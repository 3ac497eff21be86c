//! An empty task, there and back.

use std::path::Path;

use chimaera_echo_client::{Client, Error, PoolId, PoolQuery, Runtime};

use crate::floor::median_of_batches;

/// A client of an echo pool in a daemon.
pub(crate) struct RoundTrip {
    echo: Client,
}

impl RoundTrip {
    pub(crate) fn new(socket: &Path) -> Result<Self, Error> {
        let runtime = Runtime::connect_to(socket)?;
        let echo = Client::new(&runtime, PoolId::new(9000, 0));
        echo.create(PoolQuery::Dynamic, "bench", "")?;
        Ok(Self { echo })
    }

    /// Nanoseconds from the call to the result, through client library, lane, worker, plugin and
    /// back: the median of many batches.
    pub(crate) fn measure(&self) -> Result<f64, Error> {
        let mut failure = None;
        let nanos = median_of_batches(|| {
            if let Err(error) = self.echo.echo(7) {
                failure = Some(error);
            }
        });
        failure.map_or(Ok(nanos), Err)
    }
}
