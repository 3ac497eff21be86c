//! Owner tags of blocks on a file, whatever becomes of the daemon and of the file.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use chimaera_bdev_client::{
    Client, CreateOptions, ListedTag, OwnedBlock, OwnerTag, PoolQuery, Runtime,
};
use chimaera_tests::{Daemon, Watchdog, disk_folder, file_bytes, json, text};
use nix::sys::signal::Signal;

const QUERY: PoolQuery = PoolQuery::Local;
const SECTOR_BYTES: usize = 512;
/// Tags in a sector, behind the eight bytes of its head.
const SECTOR_TAGS: usize = 63;

fn open(runtime: &Runtime, path: &Path, options: &CreateOptions) -> Client {
    Client::open_or_create(runtime, text(path), options).expect("the pool is there")
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
