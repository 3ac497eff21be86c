//! What the clones of a [`Runtime`](crate::Runtime), and tasks that were not submitted yet, share.

use std::path::PathBuf;
use std::sync::Arc;

use crate::connection::ClientConnection;
use crate::lane_pool::LanePool;
use crate::memory::BufferMemory;
use crate::offer_numbers::OfferNumbers;
use crate::reentrancy::Mutex;

/// A connected runtime, which stays connected as long as this is shared.
pub(crate) struct RuntimeInner {
    pub(crate) lanes: Arc<LanePool>,
    pub(crate) memory: Arc<BufferMemory>,
    pub(crate) connection: Arc<ClientConnection>,
    pub(crate) daemon: DaemonInfo,
    pub(crate) offers: Mutex<OfferNumbers>,
}

/// What the runtime said of itself at connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonInfo {
    /// Version of its program.
    pub version: String,
    /// Its process id.
    pub process_id: u32,
    /// Number of its workers.
    pub worker_count: u32,
    /// The path of the socket at which it listens for this client; `None` for a runtime that this process embeds.
    pub socket: Option<PathBuf>,
}
