//! Files and devices that a daemon does not take for a pool: the answer says why and what to do, the log says so too,
//! and nothing is changed.

use std::fs;
use std::fs::OpenOptions;
use std::path::Path;

use chimaera_bdev_client::{Client, PoolQuery};
use chimaera_tests::exit::{DAMAGED_METADATA, FAILED, IN_THE_WAY};
use chimaera_tests::{
    Daemon, MIB, ProgramOutput, SUPERBLOCK_BYTES, change_superblocks, chimaera, disk_folder, json,
    text,
};
use nix::sys::signal::Signal;

/// Opens the pool on a file.
fn open(daemon: &Daemon, path: &Path) -> ProgramOutput {
    daemon.run(&["pool", "create", text(path), "--type", "file"])
}

/// Stops the daemon, and gives its log.
fn end(daemon: &mut Daemon) -> String {
    daemon.signal(Signal::SIGTERM);
    daemon.wait().1
}

#[test]
fn a_copy_of_an_open_pool_is_refused_with_both_names_and_ids() {
    let daemon = Daemon::start();
    let folder = disk_folder();
    let [original, copy] = ["original", "copy"].map(|name| folder.path().join(name));
    let _ = daemon.create_file_pool(&original, "4MiB").success();
    let id = json(&daemon.run(&["pool", "list", "--json"]).success())[0]["id"].clone();
    let id = id.as_str().expect("an id");
    let destroy = |path: &Path| daemon.run(&["pool", "destroy", text(path)]).success();
    destroy(&original);
    fs::copy(&original, &copy).expect("copied");
    let _ = chimaera(&["pool", "rename", text(&copy)]).success();
    let _ = open(&daemon, &original).success();
    let before = fs::read(&copy).expect("read");
    let said = open(&daemon, &copy).failure(IN_THE_WAY);
    let both = [&original, &copy].map(|path| text(path));
    for word in [both[0], both[1], id, "duplicate UUID", "pool rename --copy"] {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
    assert!(
        fs::read(&copy).expect("read") == before,
        "nothing is changed"
    );
    destroy(&original);
    let _ = open(&daemon, &copy).success();
    let said = open(&daemon, &original).failure(IN_THE_WAY);
    assert!(said.contains("duplicate UUID"), "{said}");
}

const PAGE: usize = 4096;

/// Where the copies of the superblock lie, and their bytes.
const SUPERBLOCKS: [usize; 2] = [0, 16 * PAGE];

/// Puts these bytes in the place of others in both superblocks.
fn change(image: &mut [u8], offset: usize, bytes: &[u8]) {
    change_superblocks(image, &SUPERBLOCKS, offset, bytes);
}

/// What was done to a pool's image, the exit code and the level that the log has it with, and words of the reason.
type Case = (fn(&mut Vec<u8>), i32, &'static str, &'static str);

const CASES: [Case; 7] = [
    (
        |image| change(image, 16, &4_000_000_000u32.to_le_bytes()),
        FAILED,
        "WARN",
        "its format has version 4000000000",
    ),
    (
        |image| change(image, 24, &(1u64 << 63).to_le_bytes()),
        FAILED,
        "WARN",
        "features that this program does not know (0x8000000000000000)",
    ),
    (
        |image| change(image, 32, &(1u64 << 63).to_le_bytes()),
        FAILED,
        "WARN",
        "features that only a newer program may write: open it for reading only",
    ),
    (
        |image| SUPERBLOCKS.iter().for_each(|start| image[start + 100] ^= 1),
        DAMAGED_METADATA,
        "ERROR",
        "corrupted block metadata: both copies of the superblock are damaged",
    ),
    (
        |image| image.truncate(64 << 10),
        DAMAGED_METADATA,
        "ERROR",
        "it was cut off",
    ),
    (
        |image| {
            image[..SUPERBLOCK_BYTES].fill(0);
            image[..4].copy_from_slice(b"XFSB");
        },
        IN_THE_WAY,
        "WARN",
        "XFS",
    ),
    (
        |image| image[..128 << 10].fill(7),
        IN_THE_WAY,
        "WARN",
        "data of an unknown kind",
    ),
];

/// The one line of a log with these words.
#[track_caller]
fn only_line<'a>(log: &'a str, words: &[&str]) -> &'a str {
    let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
    let lines: Vec<_> = log.lines().filter(has_all).collect();
    let [line] = lines[..] else {
        panic!("one line has {words:?}: {log}");
    };
    line
}

#[test]
fn each_pool_that_is_refused_for_what_its_file_holds_is_a_line_of_the_log() {
    let mut daemon = Daemon::start();
    let folder = disk_folder();
    let good = folder.path().join("good");
    let _ = daemon.create_file_pool(&good, "2MiB").success();
    let _ = daemon.run(&["pool", "destroy", text(&good)]).success();
    let good = fs::read(&good).expect("read");
    // More than one user's share of the log.
    let refused: Vec<_> = (0..3)
        .flat_map(|round| (0..CASES.len()).map(move |case| (round, case)))
        .map(|(round, case)| {
            (
                folder.path().join(format!("pool-{round}-{case}")),
                CASES[case],
            )
        })
        .collect();
    for (path, (damage, code, _, reason)) in &refused {
        fs::write(path, &good).expect("written");
        let _ = chimaera(&["pool", "rename", text(path)]).success();
        let mut image = fs::read(path).expect("read");
        damage(&mut image);
        fs::write(path, &image).expect("written");
        let said = open(&daemon, path).failure(*code);
        assert!(said.contains(reason), "no {reason:?} in {said}");
        assert!(fs::read(path).expect("read") == image, "nothing is changed");
    }
    let log = end(&mut daemon);
    for (path, (_, _, level, reason)) in &refused {
        let path = format!("{}: ", text(path));
        let line = only_line(&log, &["pool not created", &path, reason]);
        assert!(line.contains(&format!(" {level} ")), "{line}");
    }
}

#[test]
fn a_request_that_does_not_agree_with_the_pool_that_is_open_is_a_line_of_the_log() {
    let mut daemon = Daemon::start();
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let _ = daemon.create_file_pool(&path, "4MiB").success();
    let create = ["pool", "create", text(&path), "--type", "file"];
    let ask = |more: &[&str]| daemon.run(&[&create, more].concat()).failure(IN_THE_WAY);
    let _ = ask(&["--io-depth", "7"]);
    let _ = ask(&["--id", "8000.77"]);
    let _ = ask(&["--overwrite"]);
    let file = OpenOptions::new().write(true).open(&path).expect("opened");
    file.set_len(2 << 20).expect("cut");
    let _ = ask(&[]);
    let log = end(&mut daemon);
    for reason in [
        "io_depth is 32, asked for 7",
        "8000.77",
        "destroy it first",
        "was cut off",
    ] {
        let line = only_line(&log, &["pool not created", text(&path), reason]);
        assert!(line.contains(" WARN "), "{line}");
    }
}

#[test]
fn a_damaged_pool_that_is_only_read_is_not_called_empty() {
    let daemon = Daemon::start();
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let name = text(&path);
    let _ = daemon.create_file_pool(&path, "3MiB").success();
    let pool = Client::open(&daemon.connect(), name).expect("it is open");
    pool.allocate_blocks(PoolQuery::Local, MIB).expect("room");
    let _ = daemon.run(&["pool", "destroy", name]).success();
    // All copies of the table.
    let mut image = fs::read(&path).expect("read");
    let pages = image.chunks_mut(PAGE);
    let tables: Vec<_> = pages.filter(|page| page.starts_with(b"CTBL")).collect();
    assert!(!tables.is_empty(), "it has a table");
    tables.into_iter().for_each(|page| page[100] ^= 1);
    fs::write(&path, &image).expect("written");

    let create = ["pool", "create", name, "--type", "file"];
    let said = daemon.run(&create).failure(DAMAGED_METADATA);
    assert!(said.contains("corrupted block metadata"), "{said}");
    let said = daemon
        .run(&[&create[..], &["--read-only"]].concat())
        .success();
    let unknown = "may be more that nobody knows of";
    assert!(said.contains("its metadata is damaged"), "{said}");
    assert!(
        said.contains(unknown) && !said.contains("no blocks"),
        "{said}"
    );
    let said = daemon.run(&["pool", "stats", name]).success();
    assert!(said.contains(unknown), "{said}");
    let stats = json(&daemon.run(&["pool", "stats", name, "--json"]).success());
    assert_eq!(stats["has_unknown_blocks"], true, "{stats}");
    for command in ["blocks", "map"] {
        let said = daemon.run(&["pool", command, name]);
        assert!(said.stderr.contains(unknown), "{said:?}");
        let said = daemon.run(&["pool", command, name, "--json"]);
        let note = json(&said.stderr)["note"].clone();
        assert!(
            note.as_str().is_some_and(|note| note.contains(unknown)),
            "{said:?}"
        );
    }
}
