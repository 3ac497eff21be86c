//! Each megabyte that holds metadata of a pool is lost in turn, on real files and devices: all that was flushed is
//! found again.

use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use chimaera_bdev_format::Geometry;
use chimaera_tests::exit::{DAMAGED_METADATA, FAILED, IN_THE_WAY, NOT_FOUND};
use chimaera_tests::{
    Daemon, FlushedPool, LoopDevice, MIB, Watchdog, assert_holds, change_superblocks, chimaera,
    json, overwrite, skipped, text,
};

/// The sizes of a pool that has grown twice.
const GROWN: [u64; 3] = [16 * MIB, 24 * MIB, 36 * MIB];
const PAGE: u64 = 4096;

/// The megabytes that hold metadata of a pool that was made and has grown so.
fn megabytes_with_metadata(sizes: &[u64]) -> Vec<u64> {
    /// Pages of a place that is only kept free.
    const KEPT: u64 = 6;
    let made = Geometry::new(sizes[0] / PAGE).expect("room");
    let grown = sizes[1..]
        .iter()
        .fold(made, |geometry, size| geometry.grown(size / PAGE));
    // Without places at 2^k MiB that are only kept free.
    let is_kept = |range: &Range<u64>| {
        (range.start / 256).is_power_of_two()
            && range.start.is_multiple_of(256)
            && range.end - range.start == KEPT
    };
    let ranges = grown.reserved().filter(|range| !is_kept(range));
    let all = ranges.flat_map(|range| range.start / 256..=(range.end - 1) / 256);
    let mut megabytes: Vec<u64> = all.collect();
    megabytes.dedup();
    megabytes
}

fn bytes_of(megabytes: Range<u64>) -> Range<u64> {
    megabytes.start * MIB..megabytes.end * MIB
}

/// Bytes are lost, among which the first superblocks are or are not: what commands say of that, and what they mend.
fn lose(image: &FlushedPool, daemon: &Daemon, lost: Range<u64>, noise: Option<u64>) {
    image.restore();
    overwrite(image.path(), lost.clone(), noise);
    let damaged = fs::read(image.path()).expect("the file");
    let inspected = image.offline(&["inspect", "--json"]);
    if lost.start == 0 {
        let repair = format!("pool check --repair {}", image.name());
        let refusals = [
            inspected,
            image.offline(&["check"]),
            image.create(daemon, &[]),
        ];
        for refusal in refusals {
            let said = refusal.failure(DAMAGED_METADATA);
            assert!(
                said.contains(&repair) && said.contains("0x800000"),
                "{said}"
            );
            assert!(!said.contains("nothing repairs that"), "{said}");
            assert_eq!(said.matches("pool check --repair").count(), 1, "{said}");
        }
        assert!(fs::read(image.path()).expect("the file") == damaged);
    } else {
        let found = json(&inspected.stdout);
        assert_eq!(found["lost"], json("[]"), "{found}");
        assert_eq!(found["restored_from"], json("null"));
        // Opening alone finds everything, too.
        image.assert_whole(daemon, std::slice::from_ref(&lost));
        overwrite(image.path(), lost.clone(), noise);
    }
    let said = image.offline(&["check", "--repair"]).success();
    let is_told = said.contains("the beginning was written again from the copy at 8 MiB");
    assert_eq!(is_told, lost.start == 0, "{said}");
    let found = json(&image.offline(&["check", "--json"]).success());
    assert_eq!(found["repairable"], json("[]"), "{found}");
    assert_eq!(found["protected"], true);
    image.assert_whole(daemon, std::slice::from_ref(&lost));
}

/// Loses each megabyte that has metadata: zeroes, noise, and zeroes in the next one as well.
fn lose_each(sizes: &[u64], expected: &[u64]) {
    let _watchdog = Watchdog::start();
    let image = FlushedPool::killed(sizes);
    let found = json(&image.offline(&["inspect", "--json"]).success());
    assert_eq!(found["segments"], sizes.len());
    assert!(found["journal_records"].as_u64() > Some(0), "{found}");
    assert_eq!(found["ended_well"], false);
    let file = fs::read(image.path()).expect("the file");
    // Halves of four pages, behind the superblocks.
    for half in [18, 22] {
        let page = &file[half * PAGE as usize..];
        assert!(page.starts_with(b"CJRN"), "half at page {half} has records");
    }
    let daemon = Daemon::start();
    let megabytes = megabytes_with_metadata(sizes);
    assert_eq!(megabytes, expected);
    for megabyte in megabytes {
        let one = bytes_of(megabyte..megabyte + 1);
        lose(&image, &daemon, one.clone(), None);
        // What was mended has two copies of everything again: the other one can be lost now.
        let is_other = |other: &&u64| **other != megabyte && **other != 0;
        if let Some(other) = expected.iter().find(is_other) {
            let other = bytes_of(*other..other + 1);
            overwrite(image.path(), other.clone(), Some(3));
            image.assert_whole(&daemon, &[one.clone(), other]);
        }
        lose(&image, &daemon, one, Some(megabyte));
        lose(&image, &daemon, bytes_of(megabyte..megabyte + 2), None);
    }
}

#[test]
fn any_megabyte_with_metadata_of_a_pool_can_be_lost() {
    lose_each(&GROWN[..1], &[0, 8]);
}

#[test]
fn any_megabyte_with_metadata_of_a_pool_that_has_grown_can_be_lost() {
    lose_each(&GROWN, &[0, 8, 16, 20, 24, 30]);
}

#[test]
fn a_pool_without_its_beginning_is_found_in_a_file_that_was_doubled() {
    let image = FlushedPool::killed(&GROWN[..1]);
    let daemon = Daemon::start();
    overwrite(image.path(), 0..MIB, Some(1));
    set_len(&image, 2 * GROWN[0]);
    let said = image.create(&daemon, &[]).failure(DAMAGED_METADATA);
    assert!(said.contains("pool check --repair"), "{said}");
    let _ = image.offline(&["check", "--repair"]).success();
    image.assert_whole(&daemon, std::slice::from_ref(&(0..MIB)));
    let found = json(&image.offline(&["check", "--json"]).success());
    assert_eq!(found["total_size"], 2 * GROWN[0], "it has grown");
}

#[test]
fn a_pool_without_its_beginning_is_found_in_a_file_whose_unused_end_was_cut() {
    let image = FlushedPool::with_room(&[16 * MIB], 10 * MIB);
    let daemon = Daemon::start();
    let cut = 16 * MIB * 6 / 10 / PAGE * PAGE;
    assert!(image.end_of_blocks() <= cut, "{}", image.end_of_blocks());
    overwrite(image.path(), 0..MIB, None);
    set_len(&image, cut);
    let said = image.create(&daemon, &[]).failure(DAMAGED_METADATA);
    assert!(said.contains("pool check --repair"), "{said}");
    let said = image.offline(&["check", "--repair"]).success();
    let missing = format!("lacks {} bytes of the pool's unused end", 16 * MIB - cut);
    assert!(said.contains(&missing), "{said}");
    image.assert_whole(&daemon, std::slice::from_ref(&(0..MIB)));
    let found = json(&image.offline(&["check", "--json"]).success());
    assert_eq!(found["total_size"], cut, "it has shrunk");
}

#[test]
fn a_pool_without_its_beginning_is_found_on_a_larger_device_that_it_was_copied_to() {
    let image = FlushedPool::killed(&GROWN[..2]);
    let device = match LoopDevice::attach(48 * MIB) {
        Ok(device) => device,
        Err(reason) => return skipped("a pool that was copied to a device", &reason),
    };
    let daemon = Daemon::start();
    let written = OpenOptions::new().write(true).open(device.path());
    let written = written.expect("the device");
    let bytes = fs::read(image.path()).expect("the file");
    written.write_all_at(&bytes, 0).expect("copied");
    written.sync_all().expect("flushed");
    drop(written);
    overwrite(device.path(), 0..MIB, None);
    let create = ["pool", "create", device.name(), "--type", "file"];
    let said = daemon.run(&create).failure(DAMAGED_METADATA);
    assert!(said.contains("pool check --repair"), "{said}");
    let _ = chimaera(&["pool", "check", "--repair", device.name()]).success();
    let _ = chimaera(&["pool", "rename", device.name()]).success();
    let _ = daemon.run(&create).success();
    let lost = std::slice::from_ref(&(0..MIB));
    assert_holds(&daemon.connect(), device.name(), image.blocks(), lost);
}

#[test]
fn overwriting_a_pool_leaves_nothing_that_is_found_later() {
    let image = FlushedPool::with_room(&[36 * MIB], 30 * MIB);
    let daemon = Daemon::start();
    // The new pool is smaller, so that the old one's far superblocks lie behind its end.
    for had_beginning in [true, false] {
        image.restore();
        let old = json(&image.offline(&["inspect", "--json"]).success());
        if !had_beginning {
            overwrite(image.path(), 0..MIB, None);
        }
        let said = image
            .create(&daemon, &["--overwrite", "--size", "16MiB"])
            .success();
        assert!(said.starts_with("created pool"), "{said}");
        assert_holds(&daemon.connect(), image.name(), &[], &[]);
        let _ = daemon.run(&["pool", "destroy", image.name()]).success();
        let new = json(&image.offline(&["inspect", "--json"]).success());
        assert_ne!(old["uuid"], new["uuid"]);
        overwrite(image.path(), 0..MIB, None);
        let said = image.offline(&["inspect"]).failure(DAMAGED_METADATA);
        let has = |pool: &serde_json::Value| said.contains(pool["uuid"].as_str().expect("text"));
        assert!(has(&new) && !has(&old), "{said}");
        overwrite(image.path(), 8 * MIB..9 * MIB, None);
        let said = image.offline(&["inspect"]).failure(NOT_FOUND);
        assert!(said.contains("no pool"), "{said}");
    }
}

#[test]
fn a_pool_over_whose_beginning_another_was_copied_is_told_from_it() {
    let (older, image) = (
        FlushedPool::with_room(&[64 * MIB], 60 * MIB),
        FlushedPool::killed(&GROWN[..1]),
    );
    let daemon = Daemon::start();
    let uuid = |image: &FlushedPool| {
        let found = json(&image.offline(&["inspect", "--json"]).success());
        found["uuid"].as_str().expect("text").to_owned()
    };
    let (lost, wanted) = (uuid(&older), uuid(&image));
    let bytes = fs::read(image.path()).expect("the file");
    let written = OpenOptions::new().write(true).open(older.path());
    written
        .and_then(|file| file.write_all_at(&bytes, 0))
        .expect("written");
    // It is the other pool now, under another name.
    assert_eq!(uuid(&older), wanted);
    let said = older.create(&daemon, &[]).failure(IN_THE_WAY);
    assert!(said.contains(image.name()), "{said}");
    overwrite(older.path(), 0..MIB, None);
    let refusals = [
        older.offline(&["check", "--repair"]),
        older.create(&daemon, &[]),
    ];
    for refusal in refusals {
        let said = refusal.failure(DAMAGED_METADATA);
        assert!(said.contains("--repair --uuid "), "{said}");
        for uuid in [&lost, &wanted] {
            assert!(said.contains(uuid.as_str()), "{uuid}: {said}");
        }
    }
    let said = older
        .offline(&["check", "--repair"])
        .failure(DAMAGED_METADATA);
    let command = format!("pool check --repair --uuid {wanted} {}", older.name());
    assert!(said.contains(&command), "{said}");
    let _ = older
        .offline(&["check", "--repair", "--uuid", &wanted])
        .success();
    let said = older
        .offline(&["check", "--repair", "--uuid", &lost])
        .failure(IN_THE_WAY);
    assert!(said.contains(&wanted), "{said}");
    let _ = older.offline(&["rename", "--copy"]).success();
    let _ = older.create(&daemon, &[]).success();
    let lost = std::slice::from_ref(&(0..MIB));
    assert_holds(&daemon.connect(), text(older.path()), image.blocks(), lost);
}

fn uuid_of(image: &FlushedPool) -> String {
    let found = json(&image.offline(&["inspect", "--json"]).success());
    assert_eq!(found["far_place"], 8 * MIB);
    found["uuid"].as_str().expect("text").to_owned()
}

#[test]
fn a_pool_whose_far_place_has_the_superblock_of_another_goes_on_when_it_is_named() {
    let (image, other) = (
        FlushedPool::killed(&GROWN[..1]),
        FlushedPool::killed(&GROWN[..1]),
    );
    let daemon = Daemon::start();
    let uuids = [uuid_of(&image), uuid_of(&other)];
    let beginning = fs::read(other.path()).expect("the file")[..MIB as usize].to_vec();
    let put_over = || {
        image.restore();
        let file = OpenOptions::new().write(true).open(image.path());
        file.and_then(|file| file.write_all_at(&beginning, 0))
            .expect("written");
    };
    put_over();
    let before = fs::read(image.path()).expect("the file");
    for refused in [
        image.create(&daemon, &[]),
        image.offline(&["inspect"]),
        image.offline(&["check"]),
        image.offline(&["check", "--repair"]),
        image.offline(&["rename"]),
        image.offline(&["upgrade"]),
    ] {
        let all = format!("{}{}", refused.stdout, refused.stderr);
        let said = refused.failure(DAMAGED_METADATA);
        assert!(said.contains("pool check --repair --uuid"), "{said}");
        assert!(uuids.iter().all(|uuid| all.contains(uuid)), "{all}");
        assert!(all.contains("at offset 0x800000"), "{all}");
    }
    let found = json(&image.offline(&["inspect", "--json"]).stdout);
    assert_eq!(found["sound"], false);
    let named = found["two_pools"]["uuids"].as_array().expect("a list");
    assert!(named.iter().eq([&uuids[1], &uuids[0]]), "{found}");
    assert!(fs::read(image.path()).expect("the file") == before);

    let _ = image
        .offline(&["check", "--repair", "--uuid", &uuids[0]])
        .success();
    image.assert_whole(&daemon, std::slice::from_ref(&(0..MIB)));
    put_over();
    let repaired = ["check", "--repair", "--uuid", &uuids[1], "--json"];
    let found = json(&image.offline(&repaired).success());
    assert_eq!(
        (&found["sound"], found["uuid"].as_str()),
        (&json("true"), Some(&*uuids[1]))
    );
    assert_eq!(uuid_of(&image), uuids[1]);
    overwrite(image.path(), 0..MIB, None);
    let said = image.offline(&["inspect"]).failure(DAMAGED_METADATA);
    assert!(
        said.contains(&uuids[1]) && !said.contains(&uuids[0]),
        "{said}"
    );
}

#[test]
fn of_two_pools_that_of_which_something_is_lost_is_not_named_for_another_repair() {
    let image = FlushedPool::killed(&GROWN[..1]);
    let other = FlushedPool::killed(&GROWN[..1]);
    let uuids = [uuid_of(&image), uuid_of(&other)];
    image.restore();
    let beginning = fs::read(other.path()).expect("the file")[..MIB as usize].to_vec();
    let file = OpenOptions::new().write(true).open(image.path());
    let file = file.expect("the file");
    file.write_all_at(&beginning, 0).expect("written");
    // Behind the far superblocks.
    file.set_len(8 * MIB + 8 * PAGE).expect("cut");
    let before = fs::read(image.path()).expect("the file");
    for options in [&["--repair", "--uuid", &*uuids[1]][..], &[]] {
        let refused = image.offline(&[&["check"], options].concat());
        let said = refused.failure(DAMAGED_METADATA);
        let repair = |uuid: &str| said.contains(&format!("--repair --uuid {uuid}"));
        assert!(repair(&uuids[0]) && !repair(&uuids[1]), "{said}");
        assert!(said.contains("--read-only"), "{said}");
    }
    assert!(fs::read(image.path()).expect("the file") == before);
}

#[test]
fn a_pool_of_a_newer_release_is_told_by_its_far_superblocks() {
    let image = FlushedPool::with_room(&[16 * MIB], 12 * MIB);
    let daemon = Daemon::start();
    let far = [8 * MIB as usize, (8 * MIB + 3 * PAGE) as usize];
    for (at, bytes, wanted) in [(16, 3, "version 3"), (24, 64, "features")] {
        image.restore();
        let mut file = fs::read(image.path()).expect("the file");
        file[..MIB as usize].fill(0);
        change_superblocks(&mut file, &far, at, &[bytes]);
        fs::write(image.path(), &file).expect("written");
        for refused in [
            image.create(&daemon, &[]),
            image.offline(&["inspect"]),
            image.offline(&["check", "--repair"]),
        ] {
            let said = refused.failure(FAILED);
            assert!(
                said.contains(wanted) && !said.contains("--overwrite"),
                "{said}"
            );
        }
        assert!(fs::read(image.path()).expect("the file") == file);
    }
}

fn set_len(image: &FlushedPool, len: u64) {
    let file = OpenOptions::new().write(true).open(image.path());
    file.and_then(|file| file.set_len(len)).expect("a length");
}
