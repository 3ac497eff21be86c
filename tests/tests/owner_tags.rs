//! Owner tags of blocks on a file, whatever becomes of the daemon and of the file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

use chimaera_bdev_allocator::{MAX_HELD_TAGS, MAX_UNCOMMITTED_TAGS};
use chimaera_bdev_client::{
    Block, Client, CreateOptions, ListedTag, OwnedBlock, OwnerTag, PageCursor, PoolQuery, Runtime,
    Task,
};
use chimaera_tests::{
    Daemon, GIB, HeldThread, MIB, Watchdog, disk_folder, file_bytes, is_in_state, json, keepers,
    skipped, text, until,
};
use nix::sys::signal::Signal;

const QUERY: PoolQuery = PoolQuery::Local;
const SECTOR_BYTES: usize = 512;
/// Tags in a sector, behind the eight bytes of its head.
const SECTOR_TAGS: usize = 63;

fn open(runtime: &Runtime, path: &Path, options: &CreateOptions) -> Client {
    Client::open_or_create(runtime, text(path), options).expect("the pool is there")
}

fn allocate(pool: &Client, tag: u64) -> Task<Vec<Block>> {
    pool.async_allocate_blocks_for(QUERY, 4096, OwnerTag(tag))
}

/// Allocates a block for each of these tags, many at a time, and gives the tags by block.
fn allocate_all(pool: &Client, tags: std::ops::Range<u64>) -> BTreeMap<Block, OwnerTag> {
    const AT_A_TIME: usize = 32;
    let (mut tasks, mut blocks) = (VecDeque::new(), BTreeMap::new());
    let mut collect = |(tag, task): (u64, Task<Vec<Block>>)| {
        blocks.insert(task.wait().expect("room")[0], OwnerTag(tag));
    };
    for tag in tags {
        if tasks.len() == AT_A_TIME {
            collect(tasks.pop_front().expect("several"));
        }
        tasks.push_back((tag, allocate(pool, tag)));
    }
    tasks.into_iter().for_each(collect);
    blocks
}

fn list(pool: &Client) -> Vec<OwnedBlock> {
    let listed: Result<_, _> = pool.all_blocks(QUERY).collect();
    listed.expect("a list")
}

/// Damages every copy of a sector that is full of these tags, and gives the tags in it.
fn damage_tags(path: &Path, tags: &BTreeSet<u64>) -> BTreeSet<u64> {
    let mut file = fs::read(path).expect("the file");
    let mut hit = BTreeSet::new();
    for sector in file.as_chunks_mut::<SECTOR_BYTES>().0 {
        let words = sector.as_chunks::<8>().0[1..].iter();
        let found: BTreeSet<u64> = words.map(|word| u64::from_le_bytes(*word)).collect();
        let is_full = found.len() == SECTOR_TAGS && found.is_subset(tags);
        if is_full && (hit.is_empty() || hit == found) {
            hit = found;
            sector[100] ^= 1;
        }
    }
    fs::write(path, file).expect("written");
    hit
}

#[test]
fn owner_tags_that_are_damaged_are_shown_as_unknown_and_the_others_as_they_are() {
    let _watchdog = Watchdog::start();
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let mut daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = open(&runtime, &path, &CreateOptions::file().size(file_bytes(2)));
    let tags: BTreeSet<u64> = (0..200).map(|number| 0xA0_0000 + number).collect();
    for &tag in &tags {
        pool.allocate_blocks_for(QUERY, 4096, OwnerTag(tag))
            .expect("room");
    }
    let untagged = pool.allocate_blocks(QUERY, 65_536).expect("room")[0];
    let before = list(&pool);
    drop((pool, runtime));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().0, Some(0));
    let hit = damage_tags(&path, &tags);
    assert_eq!(hit.len(), SECTOR_TAGS);

    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = open(&runtime, &path, &CreateOptions::file());
    let is_hit = |owner: ListedTag| owner.known().is_some_and(|tag| hit.contains(&tag.0));
    let expected = before.iter().map(|owned| OwnedBlock {
        block: owned.block,
        owner: match owned.owner {
            owner if is_hit(owner) => ListedTag::Unknown,
            owner => owner,
        },
    });
    let expected: Vec<_> = expected.collect();
    assert_eq!(list(&pool), expected);

    let shown = daemon.run(&["pool", "blocks", text(&path)]).success();
    let report = daemon.run(&["pool", "blocks", text(&path), "--json"]);
    let report = json(&report.success());
    let report = report.as_array().expect("a list");
    let lines: Vec<&str> = shown.lines().skip(1).collect();
    assert_eq!((lines.len(), report.len()), (201, 201));
    for (owned, (line, report)) in expected.iter().zip(lines.iter().zip(report)) {
        let (in_line, in_report) = match owned.owner {
            ListedTag::Unknown => ("unknown".to_owned(), Some("unknown".to_owned())),
            ListedTag::Known(OwnerTag::NONE) => ("-".to_owned(), None),
            ListedTag::Known(tag) => (format!("{:016x}", tag.0), Some(format!("{:016x}", tag.0))),
        };
        assert!(line.ends_with(&format!(" {in_line}")), "{line}");
        assert_eq!(report["owner"].as_str(), in_report.as_deref(), "{report}");
        assert_eq!(report["offset"], owned.block.offset);
    }
    assert!(list(&pool).contains(&OwnedBlock::new(untagged, OwnerTag::NONE)));
}

#[test]
fn many_owner_tags_are_on_the_device_without_a_flush() {
    let _watchdog = Watchdog::start();
    let disk = disk_folder();
    let path = disk.path().join("pool");
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = open(&runtime, &path, &CreateOptions::file().size(2 * GIB));
    let owners = allocate_all(&pool, 1..MAX_UNCOMMITTED_TAGS + 1000);
    // The keeper does what it is asked for in turn: it lists after the commit.
    let page = pool.list_blocks(QUERY, PageCursor::START);
    assert!(!page.expect("a page").blocks.is_empty());
    let folder = daemon.kill_and_leave();

    let daemon = Daemon::start_in(folder, &[] as &[&str]);
    let runtime = daemon.connect();
    let pool = open(&runtime, &path, &CreateOptions::file());
    let found = list(&pool);
    let count = found.len() as u64;
    assert!(count >= MAX_UNCOMMITTED_TAGS, "{count} blocks are left");
    for OwnedBlock { block, owner } in found {
        assert_eq!(owner, owners[&block], "{block:?}");
    }
}

#[test]
fn an_allocation_waits_where_there_is_no_room_for_its_owner_tag_and_other_tasks_go_on() {
    let _watchdog = Watchdog::start();
    let disk = disk_folder();
    let path = disk.path().join("pool");
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = open(&runtime, &path, &CreateOptions::file().size(3 * GIB));
    let keeper = keepers(&daemon, 1).swap_remove(0);
    until("the keeper sleeps", || is_in_state(&keeper, 'S'));
    let held = match HeldThread::of(&keeper) {
        Ok(held) => held,
        Err(reason) => return skipped("a keeper that stands still", &reason),
    };
    // As long as no commit comes, the pool holds so many tags and not one more.
    let mut owners = allocate_all(&pool, 1..MAX_HELD_TAGS + 1);
    let late = MAX_HELD_TAGS + 1..MAX_HELD_TAGS + 9;
    let waiting: Vec<_> = late.map(|tag| (tag, allocate(&pool, tag))).collect();
    let block = pool.allocate_blocks(QUERY, 4096).expect("it has no tag")[0];
    let large = pool.allocate_blocks_for(QUERY, MIB, OwnerTag(3));
    let large = large.expect("its tag takes no room")[0];
    let mut buffer = runtime.allocate_buffer(4096).expect("a buffer");
    buffer.fill(0x5A);
    pool.write(QUERY, &block, &buffer).expect("a write");
    pool.read(QUERY, &block, &mut buffer).expect("a read");
    pool.free_blocks(QUERY, &[block]).expect("a free");
    for (tag, task) in &waiting {
        assert!(!task.is_complete(), "{tag} was allocated");
    }
    // One that is freed makes room for one more.
    let (freed, _) = owners.pop_first().expect("many");
    pool.free_blocks(QUERY, &[freed]).expect("a free");
    let next = allocate(&pool, 5).wait().expect("room")[0];
    assert_eq!(owners.insert(next, OwnerTag(5)), None);
    assert!(waiting.iter().all(|(_, task)| !task.is_complete()));

    drop(held);
    for (tag, task) in waiting {
        owners.insert(task.wait().expect("room")[0], OwnerTag(tag));
    }
    owners.insert(large, OwnerTag(3));
    let found = list(&pool).into_iter();
    let found: BTreeMap<_, _> = found.map(|owned| (owned.block, owned.owner)).collect();
    assert_eq!(found.len(), owners.len());
    for (block, owner) in &found {
        assert_eq!(*owner, owners[block], "{block:?}");
    }
}
