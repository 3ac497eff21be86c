//! A pool of as many extents as there can be loses each megabyte that holds metadata in turn: all that was flushed is
//! found again.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use chimaera_bdev_client::{
    Client, CreateOptions, OwnedBlock, OwnerTag, PoolId, PoolQuery, Runtime,
};
use chimaera_bdev_format::Geometry;
use chimaera_tests::exit::DAMAGED_METADATA;
use chimaera_tests::{
    Daemon, KIB, MIB, Pattern, Watchdog, chimaera, disk_folder, json, overwrite, text, tmpfs_folder,
};
use tempfile::TempDir;

const QUERY: PoolQuery = PoolQuery::Local;
const PATTERN: Pattern = Pattern::new(5, 1);
const PAGE: u64 = 4096;
const EXTENTS: u64 = 64;

/// Bytes of each extent: the least by which a pool grows.
const EXTENT: u64 = 4 * MIB;

/// Commits of a page of the journal each. Both of its halves have had records then, and the last ones wait for a
/// checkpoint, which begins when more than two of a half's four pages are taken.
const COMMITS: u64 = 62;

/// A pool on a file that has grown as often as it can, and whose daemon was killed.
struct GrownPool {
    _folder: TempDir,
    path: PathBuf,
    blocks: Vec<OwnedBlock>,
    /// The pages that are never allocated, and what the kill has left in them.
    metadata: Vec<(Range<u64>, Vec<u8>)>,
}

impl GrownPool {
    fn killed() -> Self {
        // In memory, if there is room for files: flushes would take most of the time.
        let folder = tmpfs_folder().unwrap_or_else(|_| disk_folder());
        let path = folder.path().join("pool");
        let mut tag = 0;
        grow(&path, &mut tag);
        // A checkpoint may just have ended when the daemon is killed.
        let mut kills = (0..20).map(|_| work_and_kill(&path, &mut tag));
        let blocks = kills.find(|_| has_records(&path)).expect("records");
        let file = open(&path);
        let reserved = geometry().reserved().collect::<Vec<_>>();
        let metadata = reserved.into_iter().map(|pages| {
            let bytes = pages.start * PAGE..pages.end * PAGE;
            (bytes.clone(), read(&file, bytes))
        });
        Self {
            metadata: metadata.collect(),
            _folder: folder,
            path,
            blocks,
        }
    }

    /// The megabytes that hold metadata, which begin extents and their second copies.
    fn megabytes(&self) -> Vec<u64> {
        let ranges = self.metadata.iter().map(|(bytes, _)| bytes);
        let mut megabytes: Vec<u64> = ranges
            .flat_map(|bytes| bytes.start / MIB..=(bytes.end - 1) / MIB)
            .collect();
        megabytes.dedup();
        megabytes
    }

    /// Loses a megabyte, finds all that was flushed, and puts everything back.
    fn lose(&self, runtime: &Runtime, megabyte: u64, noise: Option<u64>) {
        let file = open(&self.path);
        let lost = megabyte * MIB..(megabyte + 1) * MIB;
        let held = read(&file, lost.clone());
        overwrite(&self.path, lost.clone(), noise);
        if megabyte == 0 {
            let name = text(&self.path);
            let said = chimaera(&["pool", "check", name]).failure(DAMAGED_METADATA);
            assert!(said.contains("pool check --repair"), "{said}");
            let _ = chimaera(&["pool", "check", "--repair", name]).success();
        }
        let pool = create(runtime, &self.path, None);
        assert_eq!(list(&pool), self.blocks, "megabyte {megabyte}, {noise:?}");
        for block in self.blocks.iter().map(|owned| owned.block) {
            if !lost.contains(&block.offset) {
                let mut bytes = [0; PAGE as usize];
                let read = pool.read_bytes(QUERY, &block, &mut bytes);
                read.expect("a read");
                PATTERN.check(block.offset, &bytes);
            }
        }
        end(&pool);
        file.write_all_at(&held, lost.start).expect("written");
        for (range, bytes) in &self.metadata {
            file.write_all_at(bytes, range.start).expect("written");
        }
    }
}

/// Where the metadata of a pool lies that was made with one extent and has grown by one after the other.
fn geometry() -> Geometry {
    let made = Geometry::new(EXTENT / PAGE).expect("room");
    (2..=EXTENTS).fold(made, |geometry, extents| {
        geometry.grown(extents * EXTENT / PAGE)
    })
}

/// Makes a pool, and lets it grow extent by extent, with blocks and tags in each.
fn grow(path: &Path, tag: &mut u64) {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    for extents in 1..=EXTENTS {
        let pool = create(&runtime, path, Some(extents * EXTENT));
        while allocate(&pool, MIB, tag) {}
        pool.flush(QUERY).expect("flushed");
        end(&pool);
    }
}

/// Commits small blocks, kills the daemon, and gives the blocks that were flushed.
fn work_and_kill(path: &Path, tag: &mut u64) -> Vec<OwnedBlock> {
    let daemon = Daemon::start();
    let pool = create(&daemon.connect(), path, None);
    for _ in 0..COMMITS {
        assert!(allocate(&pool, 4 * KIB, tag), "there is room");
        pool.flush(QUERY).expect("flushed");
    }
    let blocks = list(&pool);
    drop(daemon.kill_and_leave());
    blocks
}

fn has_records(path: &Path) -> bool {
    let found = json(&chimaera(&["pool", "inspect", "--json", text(path)]).success());
    assert_eq!(found["segments"], EXTENTS);
    assert_eq!(found["ended_well"], false);
    found["journal_records"].as_u64() > Some(0)
}

fn create(runtime: &Runtime, path: &Path, size: Option<u64>) -> Client {
    let pool = Client::new(runtime, PoolId::NULL);
    let options = CreateOptions::file();
    let options = match size {
        Some(size) => options.size(size),
        None => options,
    };
    let created = pool.create(PoolQuery::Dynamic, text(path), &options);
    created.expect("the pool is there");
    pool
}

fn end(pool: &Client) {
    let ended = pool.runtime().admin().destroy_pool(pool.pool_id());
    ended.expect("it ends");
}

fn list(pool: &Client) -> Vec<OwnedBlock> {
    let listed: Result<_, _> = pool.all_blocks(QUERY).collect();
    listed.expect("a list")
}

/// Allocates a block with a tag of its own, and writes its first page. `false` if there is no room.
fn allocate(pool: &Client, size: u64, tag: &mut u64) -> bool {
    *tag += 1;
    let Ok(blocks) = pool.allocate_blocks_for(QUERY, size, OwnerTag(*tag)) else {
        return false;
    };
    for block in blocks {
        let mut bytes = vec![0; PAGE as usize];
        PATTERN.fill(block.offset, &mut bytes);
        pool.write_bytes(QUERY, &block, &bytes).expect("a write");
    }
    true
}

fn open(path: &Path) -> File {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.expect("the file")
}

fn read(file: &File, range: Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.read_exact_at(&mut bytes, range.start).expect("read");
    bytes
}

#[test]
fn any_megabyte_with_metadata_of_a_pool_of_64_extents_can_be_lost() {
    let _watchdog = Watchdog::start();
    let pool = GrownPool::killed();
    let journal = read(&open(&pool.path), 0..26 * PAGE);
    // Halves of four pages, behind the superblocks.
    for half in [18, 22] {
        let page = &journal[half * PAGE as usize..];
        assert!(page.starts_with(b"CJRN"), "half at page {half} has records");
    }
    let in_extents = pool.blocks.iter().map(|owned| owned.block.offset / EXTENT);
    let with_blocks: BTreeSet<u64> = in_extents.collect();
    assert_eq!(with_blocks.len() as u64, EXTENTS, "each has blocks");
    let megabytes = pool.megabytes();
    assert_eq!(
        megabytes,
        (0..2 * EXTENTS).map(|at| 2 * at).collect::<Vec<_>>()
    );
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    for megabyte in megabytes {
        for noise in [None, Some(megabyte + 1)] {
            pool.lose(&runtime, megabyte, noise);
        }
    }
}
