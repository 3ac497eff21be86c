//! Pools that are restored from images.

use std::fs;
use std::path::PathBuf;

use chimaera_bdev_client::{Block, BlockType, Client, OwnerTag, PoolQuery, Runtime};
use chimaera_tests::{Daemon, checkout, chimaera, disk_folder, json, text};
use serde_json::Value;
use tempfile::TempDir;

use crate::image::{PAGE_BYTES, PoolImage, StoredBlock};

const QUERY: PoolQuery = PoolQuery::Local;

/// Calls `test` with the name of each image, and the image.
pub(crate) fn for_each_image(test: impl Fn(&str, PoolImage)) {
    let folder = checkout().join("tests/tests/compatibility/images");
    let entries = fs::read_dir(folder).expect("the images");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an image").path())
        .collect();
    files.sort();
    assert!(files.len() >= 18, "an image is gone: {files:?}");
    for file in files {
        let contents = fs::read_to_string(&file).expect("an image");
        let image = PoolImage::parse(&contents).expect("an image");
        assert_eq!(image.to_text(), contents, "{}", file.display());
        let name = file.file_stem().expect("a name").to_string_lossy();
        test(&name, image);
    }
}

/// The file of a pool, in a folder of its own, and what the pool must hold.
pub(crate) struct RestoredPool {
    pub(crate) image: PoolImage,
    pub(crate) path: PathBuf,
    _folder: TempDir,
}

impl RestoredPool {
    pub(crate) fn new(image: PoolImage) -> Self {
        let folder = disk_folder();
        let path = folder.path().join("pool");
        image.restore(&path).expect("the pool");
        let mut taken = image.clone();
        taken.take(&path).expect("the pool");
        assert_eq!(taken, image);
        Self {
            image,
            path,
            _folder: folder,
        }
    }

    /// As [`Self::new`], and the pool is named by its new place.
    pub(crate) fn renamed(image: PoolImage) -> Self {
        let restored = Self::new(image);
        restored.rename();
        restored
    }

    pub(crate) fn rename(&self) {
        let _ = chimaera(&["pool", "rename", text(&self.path)]).success();
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).expect("the pool")
    }

    /// The version of the format with which the pool was made.
    pub(crate) fn version(&self) -> u32 {
        u32_at(&self.bytes(), 16)
    }

    /// What `pool inspect` finds; nothing is damaged.
    pub(crate) fn inspect(&self) -> Value {
        let found = chimaera(&["pool", "inspect", text(&self.path), "--json"]);
        json(&found.success())
    }

    /// Has the daemon open the pool.
    pub(crate) fn open(&self, daemon: &Daemon, runtime: &Runtime) -> Client {
        let said = daemon.run(&["pool", "create", text(&self.path), "--type", "file"]);
        let said = said.success();
        assert!(said.starts_with("opened what was there"), "{said}");
        assert!(said.contains(&self.image.id), "{said}");
        Client::open(runtime, text(&self.path)).expect("the daemon has it")
    }

    /// Sees that the pool holds what it must: blocks, tags, data and free space.
    pub(crate) fn assert_holds(&self, daemon: &Daemon, pool: &Client) {
        assert_eq!(self.listed(daemon), self.expected());
        let stats = pool.get_stats().expect("statistics");
        assert_eq!(stats.remaining_size, self.image.remaining);
        let buffer = pool.runtime().allocate_buffer(PAGE_BYTES);
        let mut buffer = buffer.expect("a buffer");
        for stored in &self.image.blocks {
            let block = block_of(stored);
            for page in stored.pages() {
                let offset = page - stored.offset;
                let read = pool.read_at(QUERY, &block, offset, &mut buffer);
                assert_eq!(read.expect("a read"), PAGE_BYTES as u64);
                assert!(buffer[..] == stored.page(page), "{page:#x} of {stored:?}");
            }
        }
    }

    /// Blocks with their tags, as the image has them: offset, size, tag.
    fn expected(&self) -> Vec<(u64, u64, u64)> {
        let mut blocks: Vec<_> = self
            .image
            .blocks
            .iter()
            .map(|block| (block.offset, block.size, block.tag))
            .collect();
        blocks.sort_unstable();
        blocks
    }

    /// Blocks with their tags, as `pool blocks` lists them: offset, size, tag.
    fn listed(&self, daemon: &Daemon) -> Vec<(u64, u64, u64)> {
        let list = daemon.run(&["pool", "blocks", text(&self.path), "--json"]);
        let list = json(&list.success());
        let tag = |owner: &Value| match owner {
            Value::Null => 0,
            owner => u64::from_str_radix(owner.as_str().expect("a tag"), 16).expect("a tag"),
        };
        let blocks = list.as_array().expect("a list").iter();
        blocks
            .map(|block| {
                let number = |field: &str| block[field].as_u64().expect("a number");
                (number("offset"), number("size"), tag(&block["owner"]))
            })
            .collect()
    }

    /// Frees one of the pool's blocks and allocates, fills and tags others, and makes all that durable.
    pub(crate) fn change(&mut self, pool: &Client) {
        let freed = self.image.blocks.remove(0);
        pool.free_blocks(QUERY, &[block_of(&freed)])
            .expect("it is allocated");
        self.image.remaining += freed.size;
        let buffer = pool.runtime().allocate_buffer(PAGE_BYTES);
        let mut buffer = buffer.expect("a buffer");
        for (size, tag) in [(4096, 0), (4096, 77), (65536, 78)] {
            let blocks = pool.allocate_blocks_for(QUERY, size, OwnerTag(tag));
            let block = blocks.expect("room")[0];
            let stored = StoredBlock {
                offset: block.offset,
                size: block.size,
                tag,
                round: 9,
            };
            for page in stored.pages() {
                buffer.copy_from_slice(&stored.page(page));
                let written = pool.write_at(QUERY, &block, page - block.offset, &buffer);
                assert_eq!(written.expect("a write"), PAGE_BYTES as u64);
            }
            self.image.remaining -= block.size;
            self.image.blocks.push(stored);
        }
        pool.flush(QUERY).expect("a flush");
    }
}

/// The block as a client names it.
fn block_of(stored: &StoredBlock) -> Block {
    let is_its = |block_type: &BlockType| block_type.size() == stored.size;
    let block_type = BlockType::ALL.into_iter().find(is_its);
    Block::new(stored.offset, block_type.expect("a size of blocks"))
}

/// A number in the bytes of a file.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A number in the bytes of a file.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
