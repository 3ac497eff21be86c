//! The pool that is verified, as a workload and a check use it.

use chimaera_bdev_client::{Block, Client, Error, OwnedBlock, OwnerTag, PoolId, PoolQuery};

/// A pool that is verified. Every call blocks until the pool has carried it out.
pub trait VerifiedPool: Sync {
    /// Allocates blocks that hold this many bytes together, and gives them an owner tag.
    fn allocate(&self, bytes: u64, owner: OwnerTag) -> Result<Vec<Block>, Error>;

    /// Frees blocks.
    fn free(&self, blocks: &[Block]) -> Result<(), Error>;

    /// Writes a whole block.
    fn write(&self, block: &Block, bytes: &[u8]) -> Result<(), Error>;

    /// Reads a whole block.
    fn read(&self, block: &Block, bytes: &mut [u8]) -> Result<(), Error>;

    /// Makes durable all writes, allocations and frees that completed before.
    fn flush(&self) -> Result<(), Error>;

    /// Lists all allocated blocks, whoever has allocated them.
    fn list(&self) -> Result<Vec<OwnedBlock>, Error>;
}

const QUERY: PoolQuery = PoolQuery::Local;

impl VerifiedPool for Client {
    fn allocate(&self, bytes: u64, owner: OwnerTag) -> Result<Vec<Block>, Error> {
        self.allocate_blocks_for(QUERY, bytes, owner)
    }

    fn free(&self, blocks: &[Block]) -> Result<(), Error> {
        self.free_blocks(QUERY, blocks)
    }

    fn write(&self, block: &Block, bytes: &[u8]) -> Result<(), Error> {
        self.write_bytes(QUERY, block, bytes).map(|_| ())
    }

    fn read(&self, block: &Block, bytes: &mut [u8]) -> Result<(), Error> {
        self.read_bytes(QUERY, block, bytes).map(|_| ())
    }

    fn flush(&self) -> Result<(), Error> {
        Client::flush(self, QUERY)
    }

    fn list(&self) -> Result<Vec<OwnedBlock>, Error> {
        self.all_blocks(QUERY).collect()
    }
}

/// Which pool a journal is kept for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolIdentity {
    /// The pool's id.
    pub id: PoolId,
    /// The pool's name.
    pub name: String,
}

impl PoolIdentity {
    /// Whether both may be one pool: a pool in memory that is made again has another id, and a file that was moved has
    /// another name.
    pub(super) fn may_be(&self, other: &Self) -> bool {
        self.id == other.id || self.name == other.name
    }
}
