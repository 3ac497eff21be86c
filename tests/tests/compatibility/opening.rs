//! Pools of all programs are inspected, opened, read, written, killed, opened again, grown and checked.

use std::fs::{self, File};

use chimaera_bdev_client::BlockType;
use chimaera_tests::{
    Daemon, KIB, MIB, checkout, chimaera, disk_folder, exit::IN_THE_WAY, finish, json, text, until,
};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::image::PoolImage;
use crate::restored::{RestoredPool, for_each_image};

#[test]
fn each_is_inspected_and_found_sound() {
    for_each_image(|name, image| {
        let restored = RestoredPool::new(image);
        let before = restored.bytes();
        let found = restored.inspect();
        let image = &restored.image;
        assert_eq!(found["sound"], true, "{name}: {found}");
        assert_eq!(found["repairable"], json!([]), "{name}");
        assert_eq!(found["format_version"], restored.version(), "{name}");
        assert_eq!(found["name"], image.name, "{name}");
        assert_eq!(found["id"], image.id, "{name}");
        assert_eq!(found["remaining_size"], image.remaining, "{name}");
        assert_eq!(found["perf_metrics"]["read_bandwidth_mbps"], 1500.5);
        let fields = ["blocks_4k", "blocks_64k", "blocks_256k", "blocks_1m"];
        for (field, block_type) in fields.into_iter().zip(BlockType::ALL) {
            let blocks = image.blocks.iter();
            let count = blocks
                .filter(|block| block.size == block_type.size())
                .count();
            assert_eq!(found[field], count, "{name}: {field}");
        }
        let was_closed = name.ends_with("closed") || name.ends_with("once");
        assert_eq!(found["journal_records"] == 0, was_closed, "{name}: {found}");
        let _ = chimaera(&["pool", "check", text(&restored.path)]).success();
        assert!(
            restored.bytes() == before,
            "{name}: looking changes nothing"
        );
    });
}

#[test]
fn each_is_read_as_it_was_left_without_writing_to_it() {
    for_each_image(|name, image| {
        let restored = RestoredPool::renamed(image);
        let before = restored.bytes();
        let daemon = Daemon::start();
        let runtime = daemon.connect();
        let open = ["pool", "create", text(&restored.path), "--type", "file"];
        let _ = daemon
            .run(&[&open[..], &["--read-only"]].concat())
            .success();
        let pool = chimaera_bdev_client::Client::open(&runtime, text(&restored.path));
        restored.assert_holds(&daemon, &pool.expect("the daemon has it"));
        drop(runtime);
        let _ = daemon.run(&["runtime", "stop"]).success();
        assert!(
            restored.bytes() == before,
            "{name}: reading changes nothing"
        );
    });
}

#[test]
fn each_is_told_apart_by_its_name_until_it_is_renamed() {
    for_each_image(|name, image| {
        let restored = RestoredPool::new(image);
        let before = restored.bytes();
        let daemon = Daemon::start();
        let open = ["pool", "create", text(&restored.path), "--type", "file"];
        let said = daemon.run(&open).failure(IN_THE_WAY);
        assert!(said.contains(&restored.image.name), "{name}: {said}");
        assert!(said.contains("pool rename"), "{name}: {said}");
        assert!(restored.bytes() == before, "{name}: it is as it was");
        restored.rename();
        let _ = restored.open(&daemon, &daemon.connect());
    });
}

#[test]
fn each_is_written_to_and_keeps_old_and_new_blocks_when_the_daemon_is_killed() {
    for_each_image(|name, image| {
        let mut restored = RestoredPool::renamed(image);
        let mut daemon = Daemon::start();
        for _ in 0..3 {
            let runtime = daemon.connect();
            let pool = restored.open(&daemon, &runtime);
            restored.assert_holds(&daemon, &pool);
            restored.change(&pool);
            restored.assert_holds(&daemon, &pool);
            daemon = Daemon::start_in(daemon.kill_and_leave(), &[] as &[&str]);
            let _ = chimaera(&["pool", "check", text(&restored.path)]).success();
        }
        let pool = restored.open(&daemon, &daemon.connect());
        restored.assert_holds(&daemon, &pool);
        drop(pool);
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().0, Some(0), "{name}");
        let found = chimaera(&["pool", "check", text(&restored.path), "--json"]).success();
        let found = json(&found);
        assert_eq!(found["sound"], true, "{name}: {found}");
        assert_eq!(found["journal_records"], 0, "{name}: {found}");
        assert_eq!(found["remaining_size"], restored.image.remaining, "{name}");
    });
}

#[test]
fn each_grows_with_its_file() {
    for_each_image(|name, image| {
        let mut restored = RestoredPool::renamed(image);
        let len = restored.image.len + 6 * MIB;
        let file = File::options().write(true).open(&restored.path);
        file.expect("the pool").set_len(len).expect("a length");
        let mut daemon = Daemon::start();
        let pool = restored.open(&daemon, &daemon.connect());
        let stats = pool.get_stats().expect("statistics");
        assert_eq!(stats.total_size, len, "{name}");
        let more = stats.remaining_size - restored.image.remaining;
        assert!(more > 6 * MIB - 128 * KIB, "{name}: {more} bytes more");
        restored.image.remaining += more;
        restored.change(&pool);
        daemon.kill();

        let daemon = Daemon::start();
        let pool = restored.open(&daemon, &daemon.connect());
        restored.assert_holds(&daemon, &pool);
    });
}

#[test]
fn each_keeps_what_a_workload_flushed_when_the_daemon_is_killed_at_work() {
    for_each_image(|name, image| {
        if !name.ends_with("killed") {
            return;
        }
        let restored = RestoredPool::renamed(image);
        let file = File::options().write(true).open(&restored.path);
        file.expect("the pool")
            .set_len(restored.image.len + 8 * MIB)
            .expect("a length");
        let journal = restored.path.with_extension("journal");
        let of_pool = ["--pool", text(&restored.path), "--journal", text(&journal)];
        let daemon = Daemon::start();
        let _ = restored.open(&daemon, &daemon.connect());
        let run = daemon.command(&[&["verify", "run", "--seconds", "60"], &of_pool[..]].concat());
        let run = std::thread::spawn(move || finish(run));
        until("progress of the workload", || {
            let len = std::fs::metadata(&journal).map_or(0, |found| found.len());
            len > 20_000 || run.is_finished()
        });
        let daemon = Daemon::start_in(daemon.kill_and_leave(), &[] as &[&str]);
        let said = run.join().expect("the workload ends");
        said.failure(chimaera_tests::exit::NO_RUNTIME);
        let _ = restored.open(&daemon, &daemon.connect());
        let check = daemon.run(&[&["verify", "check"], &of_pool[..]].concat());
        assert_eq!(check.code, Some(0), "{name}: {check:?}");
    });
}

#[test]
fn a_pool_with_more_changes_in_its_journal_than_are_written_now_is_opened() {
    let churned = "tests/tests/compatibility/churned/a31d9d3-churned.image";
    let contents = fs::read_to_string(checkout().join(churned)).expect("the image");
    let image = PoolImage::parse(&contents).expect("an image");
    let folder = disk_folder();
    let path = folder.path().join("pool");
    image.restore(&path).expect("the pool");
    let name = text(&path);
    let _ = chimaera(&["pool", "check", name]).success();
    let _ = chimaera(&["pool", "rename", name]).success();
    let daemon = Daemon::start();
    let said = daemon
        .run(&["pool", "create", name, "--type", "file"])
        .success();
    assert!(said.starts_with("opened what was there"), "{said}");
    let list = json(&daemon.run(&["pool", "blocks", name, "--json"]).success());
    let listed: Vec<_> = list.as_array().expect("a list").iter().collect();
    let offsets = listed
        .iter()
        .map(|block| block["offset"].as_u64().expect("a number"));
    let expected: Vec<_> = image.blocks.iter().map(|block| block.offset).collect();
    assert_eq!(Vec::from_iter(offsets), expected);
    let stats = json(&daemon.run(&["pool", "stats", name, "--json"]).success());
    assert_eq!(stats["remaining_size"], image.remaining, "{stats}");
}
