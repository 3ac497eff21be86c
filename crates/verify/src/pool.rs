//! What is verified, as a workload and a check use it.

use chimaera_bdev_client::{Block, Client, Error, OwnedBlock, OwnerTag, PoolQuery};

/// What is verified: a pool, or a model of one. Every call blocks until it is done.
pub trait BlockPool: Sync {
    /// Allocates blocks of so many bytes in all, with this owner tag.
    fn allocate(&self, bytes: u64, owner: OwnerTag) -> Result<Vec<Block>, Error>;

    /// Frees blocks.
    fn free(&self, blocks: &[Block]) -> Result<(), Error>;

    /// Writes the bytes of a block from its beginning.
    fn write(&self, block: &Block, bytes: &[u8]) -> Result<(), Error>;

    /// Reads the bytes of a block from its beginning.
    fn read(&self, block: &Block, bytes: &mut [u8]) -> Result<(), Error>;

    /// Makes durable what completed before.
    fn flush(&self) -> Result<(), Error>;

    /// All allocated blocks.
    fn list(&self) -> Result<Vec<OwnedBlock>, Error>;
}

const QUERY: PoolQuery = PoolQuery::Local;

impl BlockPool for Client {
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
