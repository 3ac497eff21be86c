//! Connections to the daemons that are measured.

use std::path::Path;

use chimaera_client::{ConnectOptions, Runtime};
use chimaera_echo_client::{Client as EchoClient, PoolId, PoolQuery};

use crate::daemon::Daemon;
use crate::error::Result;

/// Bytes of address space for the buffers of a client.
const BUFFER_BYTES: u64 = 64 << 20;

/// A connection to a daemon.
pub(crate) fn connect(daemon: &Daemon) -> Result<Runtime> {
    connect_to(daemon.socket(), BUFFER_BYTES)
}

/// A connection with so much address space for buffers.
pub(crate) fn connect_to(socket: &Path, buffer_bytes: u64) -> Result<Runtime> {
    let options = ConnectOptions::new().buffer_bytes(buffer_bytes);
    Ok(options.connect_to(socket)?)
}

/// The echo pool of a connection's daemon.
pub(crate) fn echo_over(runtime: &Runtime) -> Result<EchoClient> {
    let echo = EchoClient::new(runtime, PoolId::new(9000, 0));
    echo.create(PoolQuery::Dynamic, "bench-echo", "")?;
    Ok(echo)
}
