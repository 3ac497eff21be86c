//! Features of the format that a newer program has put to use and this one does not know, on files, with the real
//! program: it keeps a compatible one, only reads with a read-only compatible one, and refuses an incompatible one.

use std::fs;
use std::path::PathBuf;

use chimaera_bdev_client::{Client, OwnedBlock, OwnerTag, PoolQuery};
use chimaera_bdev_format::Geometry;
use chimaera_tests::exit::{DAMAGED_METADATA, FAILED};
use chimaera_tests::{
    Daemon, MIB, Pattern, SUPERBLOCK_BYTES, change_superblocks, chimaera, disk_folder, json, text,
};
use tempfile::TempDir;

const QUERY: PoolQuery = PoolQuery::Local;
const PATTERN: Pattern = Pattern::new(7, 1);
const PAGE: usize = 4096;
const SIZE: u64 = 16 * MIB;

/// Where a superblock has the features of each kind.
const INCOMPATIBLE: usize = 24;
const READ_ONLY_COMPATIBLE: usize = 32;
const COMPATIBLE: usize = 40;

/// A bit that no program knows, the highest one, with one that a newer program is more likely to know.
const UNKNOWN: u64 = 1 << 63 | 1 << 2;
const SHOWN: &str = "0x8000000000000004";

/// A pool on a file, made by this program, which uses a feature.
struct Pool {
    _folder: TempDir,
    path: PathBuf,
    blocks: Vec<OwnedBlock>,
}

impl Pool {
    fn with_feature(daemon: &Daemon, kind: usize) -> Self {
        let folder = disk_folder();
        let path = folder.path().join("pool");
        let _ = daemon.create_file_pool(&path, "16MiB").success();
        let mut pool = Self {
            _folder: folder,
            path,
            blocks: Vec::new(),
        };
        pool.work(daemon, 1);
        pool.end(daemon);
        let mut image = pool.image();
        change_superblocks(&mut image, &superblocks(), kind, &UNKNOWN.to_le_bytes());
        fs::write(&pool.path, &image).expect("written");
        pool
    }

    fn name(&self) -> &str {
        text(&self.path)
    }

    fn image(&self) -> Vec<u8> {
        fs::read(&self.path).expect("the file")
    }

    fn open(&self, daemon: &Daemon, more: &[&str]) -> chimaera_tests::ProgramOutput {
        let open = ["pool", "create", self.name(), "--type", "file"];
        daemon.run(&[&open[..], more].concat())
    }

    fn end(&self, daemon: &Daemon) {
        let _ = daemon.run(&["pool", "destroy", self.name()]).success();
    }

    /// Allocates and writes a block with this tag, and flushes the open pool.
    fn work(&mut self, daemon: &Daemon, tag: u64) {
        let pool = Client::open(&daemon.connect(), self.name()).expect("it is open");
        let blocks = pool.allocate_blocks_for(QUERY, 4096, OwnerTag(tag));
        for block in blocks.expect("room") {
            let mut bytes = [0; PAGE];
            PATTERN.fill(block.offset, &mut bytes);
            pool.write_bytes(QUERY, &block, &bytes).expect("a write");
            self.blocks.push(OwnedBlock::new(block, OwnerTag(tag)));
        }
        self.blocks.sort();
        pool.flush(QUERY).expect("flushed");
    }

    /// The open pool has all its blocks and their data.
    fn assert_holds(&self, daemon: &Daemon) {
        let pool = Client::open(&daemon.connect(), self.name()).expect("it is open");
        let listed: Result<Vec<_>, _> = pool.all_blocks(QUERY).collect();
        assert_eq!(listed.expect("a list"), self.blocks);
        for owned in &self.blocks {
            let mut bytes = [0; PAGE];
            let read = pool.read_bytes(QUERY, &owned.block, &mut bytes);
            read.expect("a read");
            PATTERN.check(owned.block.offset, &bytes);
        }
    }

    /// Each superblock has the bits of this kind that are expected.
    #[track_caller]
    fn assert_features(&self, kind: usize, expected: u64) {
        let image = self.image();
        for place in superblocks() {
            assert_eq!(&image[place..place + 4], b"CHIM", "at {place:#x}");
            let at = place + kind;
            let bits = image[at..at + 8].try_into().expect("eight bytes");
            assert_eq!(u64::from_le_bytes(bits), expected, "at {place:#x}");
        }
    }

    /// Damages the second copies of the table and of what follows it.
    fn damage_second_copies(&self) {
        let geometry = Geometry::new(SIZE / PAGE as u64).expect("room");
        let table = geometry.tables()[1] as usize * PAGE;
        let mut image = self.image();
        assert!(image[table..].starts_with(b"CTBL"));
        image[table..table + 2 * PAGE].fill(0x55);
        fs::write(&self.path, &image).expect("written");
    }
}

/// Where the superblocks of the pool begin, the far ones included.
fn superblocks() -> Vec<usize> {
    let geometry = Geometry::new(SIZE / PAGE as u64).expect("room");
    let places = geometry.superblocks();
    assert_eq!(places.len(), 4);
    let places = places.into_iter();
    places.map(|page| page as usize * PAGE).collect()
}

#[test]
fn a_compatible_feature_is_kept_by_all_that_writes() {
    let mut daemon = Daemon::start();
    let mut pool = Pool::with_feature(&daemon, COMPATIBLE);
    pool.assert_features(COMPATIBLE, UNKNOWN);
    for tag in 2..4 {
        let _ = pool.open(&daemon, &[]).success();
        pool.assert_features(COMPATIBLE, UNKNOWN);
        pool.work(&daemon, tag);
        pool.assert_holds(&daemon);
        pool.end(&daemon);
        pool.assert_features(COMPATIBLE, UNKNOWN);
    }
    // A damaged superblock is written again, with the bit.
    let mut image = pool.image();
    image[..SUPERBLOCK_BYTES].fill(0x55);
    fs::write(&pool.path, &image).expect("written");
    let _ = pool.open(&daemon, &[]).success();
    pool.work(&daemon, 4);
    daemon = Daemon::start_in(daemon.kill_and_leave(), &[] as &[&str]);
    pool.assert_features(COMPATIBLE, UNKNOWN);
    pool.damage_second_copies();
    let said = chimaera(&["pool", "check", "--repair", pool.name()]).success();
    assert!(said.contains("repaired"), "{said}");
    pool.assert_features(COMPATIBLE, UNKNOWN);
    // Also where the repair has only a far superblock to take.
    let mut image = pool.image();
    image[..MIB as usize].fill(0);
    fs::write(&pool.path, &image).expect("written");
    let _ = chimaera(&["pool", "check", "--repair", pool.name()]).success();
    pool.assert_features(COMPATIBLE, UNKNOWN);
    let moved = pool.path.with_extension("moved");
    fs::rename(&pool.path, &moved).expect("moved");
    pool.path = moved;
    let _ = chimaera(&["pool", "rename", pool.name()]).success();
    let _ = chimaera(&["pool", "rename", "--copy", pool.name()]).success();
    pool.assert_features(COMPATIBLE, UNKNOWN);
    let _ = pool.open(&daemon, &[]).success();
    // One block lay in the megabyte that was lost, if any did: lists have it all the same.
    let found = Client::open(&daemon.connect(), pool.name()).expect("it is open");
    let listed: Result<Vec<_>, _> = found.all_blocks(QUERY).collect();
    assert_eq!(listed.expect("a list"), pool.blocks);
    pool.end(&daemon);
    pool.assert_features(COMPATIBLE, UNKNOWN);
}

#[test]
fn a_pool_with_a_read_only_compatible_feature_is_only_read() {
    let daemon = Daemon::start();
    let pool = Pool::with_feature(&daemon, READ_ONLY_COMPATIBLE);
    for is_damaged in [false, true] {
        if is_damaged {
            pool.damage_second_copies();
        }
        let before = pool.image();
        let words = "features that only a newer program may write: open it for reading only";
        for refused in [
            pool.open(&daemon, &[]),
            chimaera(&["pool", "rename", pool.name()]),
            chimaera(&["pool", "rename", "--copy", pool.name()]),
        ] {
            let said = refused.failure(FAILED);
            assert!(said.contains(words), "{said}");
            assert!(pool.image() == before, "a refusal changes nothing");
        }
        let repair = chimaera(&["pool", "check", "--repair", pool.name()]);
        match is_damaged {
            true => assert!(repair.failure(FAILED).contains(words)),
            false => drop(repair.success()),
        }
        assert!(pool.image() == before, "a repair changes nothing");
        let check = chimaera(&["pool", "check", pool.name()]);
        match is_damaged {
            true => drop(check.failure(DAMAGED_METADATA)),
            false => drop(check.success()),
        }
        let _ = pool.open(&daemon, &["--read-only"]).success();
        pool.assert_holds(&daemon);
        pool.end(&daemon);
        assert!(pool.image() == before, "reading changes nothing");
    }
}

#[test]
fn a_pool_with_an_incompatible_feature_is_refused_by_name() {
    let daemon = Daemon::start();
    let pool = Pool::with_feature(&daemon, INCOMPATIBLE);
    let before = pool.image();
    for refused in [
        pool.open(&daemon, &[]),
        pool.open(&daemon, &["--read-only"]),
        chimaera(&["pool", "inspect", pool.name()]),
        chimaera(&["pool", "check", pool.name()]),
        chimaera(&["pool", "check", "--repair", pool.name()]),
        chimaera(&["pool", "rename", pool.name()]),
    ] {
        let said = refused.failure(FAILED);
        let words = format!("features that this program does not know ({SHOWN})");
        assert!(said.contains(&words), "{said}");
        assert!(pool.image() == before, "a refusal changes nothing");
    }
    let pools = json(&daemon.run(&["pool", "list", "--json"]).success());
    assert!(!pools.to_string().contains(pool.name()), "{pools}");
}
