//! A pool of version 1 of the format is made one of version 2, by the real program, and keeps what it holds.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use chimaera_bdev_client::{
    Block, BlockType, Client, CreateOptions, IoEngine, OwnerTag, PerfMetrics, PoolId, PoolQuery,
    Runtime,
};
use chimaera_bdev_format::image::{FileDisk, birth, pool_file};
use chimaera_bdev_format::{FormatVersion, Geometry, Identity, Metadata, PAGE_BYTES, PoolOwner};
use chimaera_tests::exit::{DAMAGED_METADATA, IN_THE_WAY, NO_SPACE};
use chimaera_tests::{
    Daemon, LoopDevice, MIB, Pattern, SUPERBLOCK_BYTES, change_superblocks, chimaera, disk_folder,
    finish, json, skipped, text,
};

const QUERY: PoolQuery = PoolQuery::Local;
const PATTERN: Pattern = Pattern::new(1, 1);
const TAG: OwnerTag = OwnerTag(0x1234);

/// Makes an empty pool of version 1 in a file of so many bytes, or on a device that has them.
fn make_old_pool(path: &Path, bytes: u64) {
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .expect("a file");
    if file.metadata().expect("what it is").is_file() {
        file.set_len(bytes).expect("a length");
    }
    let identity = Identity {
        pool: PoolId::new(8000, 1),
        name: text(path).to_owned(),
        owner: PoolOwner {
            user: nix::unistd::getuid().as_raw(),
            group: nix::unistd::getgid().as_raw(),
            mode: 0o600,
        },
        alignment: 4096,
        io_depth: 8,
        io_engine: IoEngine::Auto,
        metrics: PerfMetrics::default(),
        scrubs: false,
    };
    let pages = bytes / PAGE_BYTES as u64;
    let geometry = Geometry::of_version(FormatVersion::One, pages).expect("room");
    let disk = FileDisk::new(pool_file(file).expect("a file"));
    let birth = birth().expect("random numbers");
    Metadata::format(disk, identity, geometry, birth, false).expect("a pool");
}

fn open(runtime: &Runtime, path: &Path) -> Client {
    let pool = Client::new(runtime, PoolId::NULL);
    pool.create(PoolQuery::Dynamic, text(path), &CreateOptions::file())
        .expect("the pool is opened");
    pool
}

/// Fills the pool on a file with blocks of one type, all with a tag, up to `most`, in a daemon that is stopped then.
fn fill(path: &Path, block_type: BlockType, most: usize) -> Vec<Block> {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = open(&runtime, path);
    let mut blocks = Vec::new();
    while blocks.len() < most {
        match pool.allocate_blocks_for(QUERY, block_type.size(), TAG) {
            Ok(more) => blocks.extend(more),
            Err(_) => break,
        }
    }
    let buffer = runtime.allocate_buffer(block_type.size() as usize);
    let mut buffer = buffer.expect("a buffer");
    for block in &blocks {
        PATTERN.fill(block.offset, &mut buffer);
        pool.write(QUERY, block, &buffer).expect("a write");
    }
    runtime
        .admin()
        .destroy_pool(pool.pool_id())
        .expect("the pool ends");
    blocks
}

/// Sees that a daemon finds these blocks, their tags, and their data from an offset on.
fn see(path: &Path, blocks: &[Block], from: u64) {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = open(&runtime, path);
    let listed: Vec<_> = pool
        .all_blocks(QUERY)
        .map(|owned| owned.expect("a block"))
        .collect();
    let mut wanted = blocks.to_vec();
    wanted.sort_by_key(|block| block.offset);
    let found: Vec<_> = listed.iter().map(|owned| owned.block).collect();
    assert_eq!(found, wanted);
    assert!(listed.iter().all(|owned| owned.owner.known() == Some(TAG)));
    for block in blocks.iter().filter(|block| block.offset >= from) {
        let buffer = runtime.allocate_buffer(block.size as usize);
        let mut buffer = buffer.expect("a buffer");
        pool.read(QUERY, block, &mut buffer).expect("a read");
        PATTERN.check(block.offset, &buffer);
    }
}

#[test]
fn an_upgraded_pool_keeps_what_it_holds_and_survives_the_loss_of_its_first_megabyte() {
    let folder = disk_folder();
    upgrade_and_lose_the_first_megabyte(&folder.path().join("pool"));
}

#[test]
fn so_does_one_on_a_device() {
    match LoopDevice::attach(16 * MIB) {
        Ok(device) => upgrade_and_lose_the_first_megabyte(device.path()),
        Err(reason) => skipped("an upgraded pool on a device", &reason),
    }
}

fn upgrade_and_lose_the_first_megabyte(path: &Path) {
    make_old_pool(path, 16 * MIB);
    let blocks = fill(path, BlockType::Kib64, 100);
    let file = text(path);

    let shown = chimaera(&["pool", "inspect", file]).success();
    assert!(
        shown.contains("older format: `") && shown.contains("pool upgrade"),
        "{shown}"
    );
    let report = json(&chimaera(&["pool", "upgrade", file, "--json"]).success());
    assert_eq!(report["upgraded"], true);
    assert_eq!(report["pool"]["format_version"], 2);
    assert_eq!(report["pool"]["protected"], true);
    let shown = chimaera(&["pool", "check", file]).success();
    assert!(!shown.contains("older format"), "{shown}");
    let again = chimaera(&["pool", "upgrade", file]).success();
    assert!(again.contains("nothing was written"), "{again}");
    see(path, &blocks, 0);

    let opened = File::options().write(true).open(path).expect("the pool");
    opened
        .write_all_at(&vec![0; MIB as usize], 0)
        .expect("a write");
    chimaera(&["pool", "check", file]).failure(DAMAGED_METADATA);
    let _ = chimaera(&["pool", "check", "--repair", file]).success();
    see(path, &blocks, MIB);
}

#[test]
fn a_full_pool_is_left_as_it_is_and_is_upgraded_when_blocks_were_freed() {
    let folder = disk_folder();
    let path = folder.path().join("pool");
    make_old_pool(&path, 8 * MIB);
    let mut blocks = fill(&path, BlockType::Kib4, usize::MAX);
    let before = std::fs::read(&path).expect("the pool");
    let file = text(&path);

    let refused = chimaera(&["pool", "upgrade", file]).failure(NO_SPACE);
    assert!(refused.contains("free the blocks at offset"), "{refused}");
    assert!(refused.contains("let the pool grow by"), "{refused}");
    let refused = chimaera(&["pool", "upgrade", file, "--json"]);
    assert_eq!(refused.code, Some(NO_SPACE));
    let report = json(&refused.stdout);
    assert_eq!(report["upgraded"], false);
    assert!(
        before == std::fs::read(&path).expect("the pool"),
        "nothing was written"
    );

    let named = report["missing_room"]["blocks_to_free"]
        .as_array()
        .expect("blocks");
    let is_named = |block: &Block| named.iter().any(|named| named["offset"] == block.offset);
    let (freed, kept): (Vec<_>, Vec<_>) = blocks.drain(..).partition(is_named);
    assert_eq!(freed.len(), named.len());
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = open(&runtime, &path);
    pool.free_blocks(QUERY, &freed).expect("freed");
    let busy = chimaera(&["pool", "upgrade", file]).failure(IN_THE_WAY);
    assert!(busy.contains("it is in use"), "{busy}");
    runtime
        .admin()
        .destroy_pool(pool.pool_id())
        .expect("the pool ends");
    let _ = chimaera(&["pool", "upgrade", file]).success();
    see(&path, &kept, 0);
}

#[test]
fn a_damaged_pool_is_upgraded_after_a_repair() {
    let folder = disk_folder();
    let path = folder.path().join("pool");
    make_old_pool(&path, 8 * MIB);
    let blocks = fill(&path, BlockType::Kib64, 9);
    let file = text(&path);
    let opened = File::options().write(true).open(&path).expect("the pool");
    opened.write_all_at(&[7; 512], 0).expect("a write");
    let refused = chimaera(&["pool", "upgrade", file]).failure(DAMAGED_METADATA);
    assert!(refused.contains("check --repair"), "{refused}");
    let _ = chimaera(&["pool", "check", "--repair", file]).success();
    let _ = chimaera(&["pool", "upgrade", file]).success();
    see(&path, &blocks, 0);
}

#[test]
fn an_upgrade_that_was_killed_is_gone_on_with() {
    let folder = disk_folder();
    let path = folder.path().join("pool");
    make_old_pool(&path, 16 * MIB);
    let blocks = fill(&path, BlockType::Kib64, 100);
    let before = std::fs::read(&path).expect("the pool");
    let upgrade = ["pool", "upgrade", text(&path)];
    let _ = chimaera(&upgrade).success();
    let after = std::fs::read(&path).expect("the pool");
    // The superblocks, in the order in which they are written.
    let places = [0, 8 << 20, 64 << 10, (8 << 20) + (3 << 12)];
    for written in 1..places.len() {
        let mut killed = after.clone();
        for place in &places[written..] {
            let superblock = *place..place + SUPERBLOCK_BYTES;
            assert!(after[superblock.clone()] != before[superblock.clone()]);
            killed[superblock.clone()].copy_from_slice(&before[superblock]);
        }
        std::fs::write(&path, &killed).expect("written");
        let said = chimaera(&upgrade).success();
        assert!(said.contains("has version 2 of the format now"), "{said}");
        assert!(
            std::fs::read(&path).expect("the pool") == after,
            "all is written"
        );
        // Damage beside that is for a repair.
        killed[after.len() / 2 + (5 << 12)..][..4096].fill(7);
        killed[64 << 10..][..512].fill(7);
        std::fs::write(&path, &killed).expect("written");
        let said = chimaera(&upgrade).failure(DAMAGED_METADATA);
        assert!(said.contains("check --repair"), "{said}");
        assert!(
            std::fs::read(&path).expect("the pool") == killed,
            "nothing was written"
        );
    }
    std::fs::write(&path, &after).expect("written");
    see(&path, &blocks, 0);
}

#[test]
fn a_superblock_that_was_forged_in_a_block_of_an_upgraded_pool_is_not_taken_for_its_own() {
    const FORGED: usize = 4 << 20;
    const FAR: usize = 8 << 20;
    let folder = disk_folder();
    let path = folder.path().join("pool");
    make_old_pool(&path, 16 * MIB);
    let blocks = fill(&path, BlockType::Kib64, 100);
    let is_forged = |block: &&Block| block.offset <= 4 * MIB && 4 * MIB < block.offset + block.size;
    assert!(blocks.iter().any(|block| is_forged(&block)));
    let file = text(&path);
    let _ = chimaera(&["pool", "upgrade", file]).success();
    let found = json(&chimaera(&["pool", "inspect", file, "--json"]).success());
    assert_eq!(found["far_place"], 8 * MIB);

    // With its own place and far place, and a generation that no pool comes to soon.
    let mut bytes = std::fs::read(&path).expect("the pool");
    bytes.copy_within(FAR..FAR + SUPERBLOCK_BYTES, FORGED);
    let place = (FORGED as u64 / PAGE_BYTES as u64).to_le_bytes();
    for (at, bytes_there) in [(80, place), (88, place), (96, (1_u64 << 40).to_le_bytes())] {
        change_superblocks(&mut bytes, &[FORGED], at, &bytes_there);
    }
    bytes[..MIB as usize].fill(0);
    std::fs::write(&path, &bytes).expect("written");
    let daemon = Daemon::start();
    let create = ["pool", "create", file, "--type", "file"];
    let mut said = String::new();
    for refused in [
        daemon.run(&create),
        chimaera(&["pool", "check", "--repair", file]),
        chimaera(&["pool", "inspect", file]),
    ] {
        said = refused.failure(DAMAGED_METADATA);
        for offset in ["0x400000", "0x800000", "0x803000"] {
            assert!(said.contains(offset), "{said}");
        }
    }
    drop(daemon);
    assert!(std::fs::read(&path).expect("the pool") == bytes);
    // The advice works as it is printed.
    let commands: Vec<_> = said.split('`').skip(1).step_by(2).collect();
    for wanted in ["seek=1024 count=2", "pool check --repair"] {
        let command = commands.iter().find(|command| command.contains(wanted));
        let mut shell = Command::new("sh");
        shell.args(["-c", command.unwrap_or_else(|| panic!("{said}"))]);
        let _ = finish(shell).success();
    }
    see(&path, &blocks, 5 * MIB);
}
