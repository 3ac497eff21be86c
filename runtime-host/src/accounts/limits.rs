//! How much users and sessions may have.

use chimaera_proto::limits::{MAX_LANES, MAX_SEGMENTS};
use chimaera_thread::available_bytes;
use nix::sys::resource::{Resource as SystemResource, getrlimit};

use super::resource::{Amounts, Resource};

/// Half of the smallest address space that a process has on the machines we serve.
const MAX_ADDRESS_BYTES: u64 = 64 << 40;

/// A quarter of it, for pools in memory.
const MAX_MEMORY_POOL_BYTES: u64 = 32 << 40;

/// Half of the mappings that Linux lets a process have unless told otherwise.
const MAX_MAPPED_SEGMENTS: u64 = 32 * 1024;

/// The most pools that a host has. Each worker identifies pools by an index of 16 bits, one of which is the admin
/// pool's.
pub(crate) const MAX_POOLS: u64 = 4096;

const _: () = assert!(MAX_POOLS < u16::MAX as u64);

/// How much of each resource there is for whom. What is in nobody's account has no limit here.
///
/// Operators have no limits but those of a session and of the whole host, of which users leave them some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountLimits {
    /// For each user, in all sessions together.
    pub per_user: Amounts,
    /// For each session.
    pub per_session: Amounts,
    /// For all users together, who leave some to operators.
    pub all_users: Amounts,
    /// For everybody together, operators included.
    pub whole: Amounts,
}

impl AccountLimits {
    /// What suits this machine and process: of what there is a known amount of, a quarter for each user.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self::of(&Machine::ask())
    }

    fn of(machine: &Machine) -> Self {
        let whole = Amounts::all(u64::MAX)
            .with(Resource::Segments, MAX_MAPPED_SEGMENTS)
            .with(Resource::AddressBytes, MAX_ADDRESS_BYTES)
            .with(Resource::Pools, MAX_POOLS)
            .with(Resource::MemoryBytes, MAX_MEMORY_POOL_BYTES);
        let left_to_operators = |amount: u64| amount - amount / 8;
        let all_users = whole
            .map(left_to_operators)
            .with(
                Resource::Descriptors,
                left_to_operators(machine.descriptors),
            )
            .with(Resource::IoDepth, machine.aio_operations / 4 * 3)
            .with(Resource::Rings, u64::MAX);
        let user = Amounts::all(u64::MAX)
            .with(Resource::Connections, 256)
            .with(Resource::Lanes, 2048)
            .with(Resource::Segments, 2048)
            .with(
                Resource::AddressBytes,
                addresses_of_a_user(machine.memory_bytes),
            )
            .with(Resource::Descriptors, machine.descriptors / 4)
            .with(Resource::Pools, MAX_POOLS / 4)
            .with(Resource::MemoryBytes, machine.memory_bytes / 2)
            .with(Resource::IoDepth, machine.aio_operations / 4)
            .with(Resource::Jobs, 256);
        let session = Amounts::all(u64::MAX)
            .with(Resource::Lanes, MAX_LANES as u64)
            .with(Resource::Segments, MAX_SEGMENTS as u64)
            .with(Resource::AddressBytes, MAX_ADDRESS_BYTES / 16)
            .with(Resource::Jobs, 128);
        Self {
            per_user: user,
            per_session: session,
            all_users,
            whole,
        }
    }
}

impl AccountLimits {
    /// The same where there is only this stock of rings.
    #[must_use]
    pub fn with_rings(mut self, stock: u64) -> Self {
        self.per_user = self.per_user.with(Resource::Rings, stock.div_ceil(4));
        self.all_users = self.all_users.with(Resource::Rings, stock - stock / 8);
        self
    }
}

impl Default for AccountLimits {
    fn default() -> Self {
        Self::of_this_machine()
    }
}

/// Bytes of address space for a user, on a machine with so much memory. A client that has its segments touched and
/// gives the memory back leaves page tables to the host: a page for 2 MiB. So the tables of a user take a sixteenth of
/// the memory at most, or 128 MiB.
fn addresses_of_a_user(memory_bytes: u64) -> u64 {
    let tables = (memory_bytes / 16).max(128 << 20);
    (tables * 512).min(MAX_ADDRESS_BYTES / 4)
}

/// What the machine and the system give this process.
struct Machine {
    /// File descriptors that the process may have, besides those that it needs for itself: at least half of all.
    descriptors: u64,
    memory_bytes: u64,
    /// Operations of Linux AIO that all processes together may have.
    aio_operations: u64,
}

impl Machine {
    /// Descriptors that the process needs for itself: sockets, workers, libraries.
    const OWN_DESCRIPTORS: u64 = 64;

    fn ask() -> Self {
        let number = |path: &str| {
            let text = std::fs::read_to_string(path).ok()?;
            text.trim().parse().ok()
        };
        let descriptors = getrlimit(SystemResource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        Self {
            descriptors: descriptors
                .saturating_sub(Self::OWN_DESCRIPTORS)
                .max(descriptors / 2),
            memory_bytes: available_bytes().unwrap_or(1 << 40),
            aio_operations: number("/proc/sys/fs/aio-max-nr").unwrap_or(65_536),
        }
    }
}
