//! A pool on a file whose daemon was killed: what it must hold, to be damaged and found again.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use chimaera_bdev_client::{
    Client, CreateOptions, OwnedBlock, OwnerTag, PoolId, PoolQuery, Runtime,
};
use tempfile::TempDir;

use crate::{
    Daemon, KIB, MIB, Pattern, ProgramOutput, Xorshift, chimaera, disk_folder, json, text,
};

const QUERY: PoolQuery = PoolQuery::Local;
const PATTERN: Pattern = Pattern::new(5, 1);

/// Commits after the pool has its size: both halves of a small pool's journal have records then.
const COMMITS: u64 = 60;

/// A pool on a file, and what was flushed to it.
#[derive(Debug)]
pub struct FlushedPool {
    folder: TempDir,
    path: PathBuf,
    /// The file as the kill left it.
    kept: PathBuf,
    blocks: Vec<OwnedBlock>,
}

impl FlushedPool {
    /// A pool that was made with the first of these sizes in bytes and has grown to the others, with blocks all over
    /// it. Its daemon was killed after many commits.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn killed(sizes: &[u64]) -> Self {
        Self::with_room(sizes, MIB)
    }

    /// As [`Self::killed`], with so many bytes left free of each size.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn with_room(sizes: &[u64], room: u64) -> Self {
        // A checkpoint may just have ended when the daemon is killed.
        let mut pools = (0..20).map(|_| Self::killed_once(sizes, room));
        let has_records = |pool: &Self| {
            let found = json(&pool.offline(&["inspect", "--json"]).success());
            found["journal_records"].as_u64() > Some(0)
        };
        pools.find(has_records).expect("records in the journal")
    }

    fn killed_once(sizes: &[u64], room: u64) -> Self {
        let folder = disk_folder();
        let (path, kept) = (folder.path().join("pool"), folder.path().join("kept"));
        let daemon = Daemon::start();
        let runtime = daemon.connect();
        let mut tag = 100;
        for (count, size) in sizes.iter().enumerate() {
            let pool = Client::new(&runtime, PoolId::NULL);
            pool.create(
                PoolQuery::Dynamic,
                text(&path),
                &CreateOptions::file().size(*size),
            )
            .expect("the pool is there");
            fill(&pool, room, &mut tag);
            if count + 1 < sizes.len() {
                runtime
                    .admin()
                    .destroy_pool(pool.pool_id())
                    .expect("it ends");
            }
        }
        let pool = Client::open(&runtime, text(&path)).expect("it is open");
        for _ in 0..COMMITS {
            allocate(&pool, 4 * KIB, &mut tag);
            flush(&pool);
        }
        let blocks = list(&pool);
        drop(daemon.kill_and_leave());
        fs::copy(&path, &kept).expect("copied");
        Self {
            folder,
            path,
            kept,
            blocks,
        }
    }

    /// The file, whose path is the pool's name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path as text.
    #[must_use]
    pub fn name(&self) -> &str {
        text(&self.path)
    }

    /// A path beside it.
    #[must_use]
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The blocks that were flushed.
    #[must_use]
    pub fn blocks(&self) -> &[OwnedBlock] {
        &self.blocks
    }

    /// The byte behind the last block.
    #[must_use]
    pub fn end_of_blocks(&self) -> u64 {
        let ends = self.blocks.iter().map(|owned| owned.block);
        ends.map(|block| block.offset + block.size)
            .max()
            .unwrap_or(0)
    }

    /// Puts the file back as the kill left it.
    ///
    /// # Panics
    /// If it cannot be copied.
    pub fn restore(&self) {
        fs::copy(&self.kept, &self.path).expect("copied");
    }

    /// Asks the daemon for the pool on the file.
    #[must_use]
    pub fn create(&self, daemon: &Daemon, more: &[&str]) -> ProgramOutput {
        let create = ["pool", "create", self.name(), "--type", "file"];
        daemon.run(&[&create[..], more].concat())
    }

    /// Runs a command on the file that needs no daemon: `inspect` or `check`.
    #[must_use]
    pub fn offline(&self, words: &[&str]) -> ProgramOutput {
        chimaera(&[&["pool"], words, &[self.name()]].concat())
    }

    /// Opens the pool, which has to hold all that was flushed, and ends it. What lay in the `lost` bytes is not
    /// compared.
    ///
    /// # Panics
    /// If it does not.
    pub fn assert_whole(&self, daemon: &Daemon, lost: &[Range<u64>]) {
        let _ = self.create(daemon, &[]).success();
        let runtime = daemon.connect();
        assert_holds(&runtime, self.name(), &self.blocks, lost);
        let _ = daemon.run(&["pool", "destroy", self.name()]).success();
    }
}

/// The open pool of this name has exactly these blocks with their tags, and their data outside of the `lost` bytes.
///
/// # Panics
/// If not.
pub fn assert_holds(runtime: &Runtime, name: &str, blocks: &[OwnedBlock], lost: &[Range<u64>]) {
    let pool = Client::open(runtime, name).expect("it is open");
    assert_eq!(list(&pool), blocks);
    let is_lost = |offset: u64, size: u64| {
        lost.iter()
            .any(|lost| offset < lost.end && lost.start < offset + size)
    };
    let mut compared = 0;
    for block in blocks.iter().map(|owned| owned.block) {
        if is_lost(block.offset, block.size) {
            continue;
        }
        let mut buffer = runtime
            .allocate_buffer(block.size as usize)
            .expect("a buffer");
        pool.read(QUERY, &block, &mut buffer).expect("a read");
        PATTERN.check(block.offset, &buffer);
        compared += 1;
    }
    assert!(compared > 0 || blocks.is_empty());
}

/// Overwrites a part of a file with zeroes or with noise, as `dd` does.
///
/// # Panics
/// If it cannot be written.
pub fn overwrite(path: &Path, bytes: Range<u64>, noise: Option<u64>) {
    let mut contents = vec![0; (bytes.end - bytes.start) as usize];
    if let Some(seed) = noise {
        let mut numbers = Xorshift::new(seed);
        for word in contents.as_chunks_mut::<8>().0 {
            *word = numbers.next_number().to_le_bytes();
        }
    }
    let file = fs::OpenOptions::new().write(true).open(path);
    let file = file.expect("the file is there");
    file.write_all_at(&contents, bytes.start).expect("written");
    file.sync_data().expect("flushed");
}

fn list(pool: &Client) -> Vec<OwnedBlock> {
    let listed: Result<_, _> = pool.all_blocks(QUERY).collect();
    listed.expect("a list")
}

fn flush(pool: &Client) {
    let admin = pool.runtime().admin();
    admin.flush(Some(pool.pool_id().into())).expect("flushed");
}

/// Allocates tagged blocks and writes them.
fn allocate(pool: &Client, size: u64, tag: &mut u64) {
    *tag += 1;
    let blocks = pool.allocate_blocks_for(QUERY, size, OwnerTag(*tag));
    for block in blocks.expect("room") {
        let buffer = pool.runtime().allocate_buffer(block.size as usize);
        let mut buffer = buffer.expect("a buffer");
        PATTERN.fill(block.offset, &mut buffer);
        pool.write(QUERY, &block, &buffer).expect("a write");
    }
}

/// Fills the pool up to `room` bytes, and flushes it.
fn fill(pool: &Client, room: u64, tag: &mut u64) {
    let remaining = || crate::remaining(pool);
    for size in [MIB, 256 * KIB, 64 * KIB] {
        while remaining() > room + size && fits(pool, size) {
            allocate(pool, size, tag);
        }
    }
    flush(pool);
}

/// Whether there is a block of this size.
fn fits(pool: &Client, size: u64) -> bool {
    let Ok(blocks) = pool.allocate_blocks(QUERY, size) else {
        return false;
    };
    pool.free_blocks(QUERY, &blocks).is_ok()
}
