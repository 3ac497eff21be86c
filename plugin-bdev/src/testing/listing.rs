//! Flushing, listing and mapping a pool.

use chimaera_bdev_proto::{
    MAP_END, MIN_LISTING_BUFFER_BYTES, MegabyteState, Method, OWNED_BLOCK_WIRE_BYTES, OwnedBlock,
    listing_arguments, map_arguments,
};
use chimaera_proto::{Failure, Status};

use super::{TestBuffer, TestPool};

impl TestPool {
    pub(crate) fn flush(&self) -> Result<(), Failure> {
        self.run(Method::Flush, [0; 3], None).map(|_| ())
    }

    /// The page of a listing that begins at this megabyte, and where the next one begins.
    pub(crate) fn list_page(
        &self,
        first_megabyte: u64,
        buffer_len: usize,
    ) -> Result<(Vec<OwnedBlock>, u64), Status> {
        let mut buffer = TestBuffer::new(buffer_len, 0);
        let arguments = listing_arguments(first_megabyte);
        let values = self
            .run(Method::ListBlocks, arguments, Some(&mut buffer))
            .map_err(|failure| failure.status)?;
        let entries = buffer.bytes().as_chunks::<OWNED_BLOCK_WIRE_BYTES>().0;
        let blocks = entries[..values[0] as usize]
            .iter()
            .map(|&bytes| OwnedBlock::from_bytes(bytes).expect("the pool's own"))
            .collect();
        Ok((blocks, values[1]))
    }

    /// All allocated blocks with their tags, by offset.
    pub(crate) fn list(&self) -> Vec<OwnedBlock> {
        let mut blocks = Vec::new();
        let mut next = 0;
        while next != MAP_END {
            let page = self.list_page(next, MIN_LISTING_BUFFER_BYTES);
            let (mut found, after) = page.expect("a page");
            assert!(after > next, "each page goes on");
            blocks.append(&mut found);
            next = after;
        }
        assert!(blocks.is_sorted(), "in order of offset");
        blocks
    }

    /// The page of the map that begins at this megabyte, and where the next one begins.
    pub(crate) fn map_page(
        &self,
        first_megabyte: u64,
        buffer_len: usize,
    ) -> Result<(Vec<MegabyteState>, u64), Status> {
        let mut buffer = TestBuffer::new(buffer_len, 0);
        let arguments = map_arguments(first_megabyte);
        let values = self
            .run(Method::GetMap, arguments, Some(&mut buffer))
            .map_err(|failure| failure.status)?;
        let states = buffer.bytes()[..values[0] as usize]
            .iter()
            .map(|&byte| MegabyteState::from_number(byte).expect("a state"))
            .collect();
        Ok((states, values[1]))
    }
}
