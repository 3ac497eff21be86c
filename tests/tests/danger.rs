//! Pools in danger, as an operator meets them: signatures of something else, failed devices, files that were cut, and
//! copies.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use chimaera_bdev_client::{IoEngine, PerfMetrics, PoolId};
use chimaera_bdev_format::image::{FileDisk, birth, pool_file};
use chimaera_bdev_format::{
    FormatVersion, Geometry, Identity, Metadata, OpenMode, PoolOwner, open,
};
use chimaera_tests::exit::{DAMAGED_METADATA, FAILED, IN_THE_WAY, WRONG_USAGE};
use chimaera_tests::{
    Daemon, FlushedPool, MIB, assert_holds, change_superblocks, chimaera, disk_folder, finish,
    json, skipped, text,
};

const PAGE: u64 = 4096;

fn disk(path: &Path) -> FileDisk {
    let file = OpenOptions::new().read(true).write(true).open(path);
    FileDisk::new(pool_file(file.expect("the file")).expect("kept"))
}

/// Where it stands, its bytes, and its name.
type Signature = (u64, &'static [u8], &'static str);

const SIGNATURES: [Signature; 4] = [
    (0, b"XFSB", "XFS"),
    (1080, b"\x53\xef", "ext"),
    (4086, b"SWAPSPACE2", "swap"),
    (512, b"EFI PART", "GPT"),
];

#[test]
fn where_something_else_stands_at_the_beginning_nothing_is_written() {
    let image = FlushedPool::with_room(&[16 * MIB], 12 * MIB);
    let daemon = Daemon::start();
    // Over one superblock, over both, and behind the first bytes of one, which is damaged and not gone.
    for (offset, bytes, name) in SIGNATURES {
        for zeroed in [2 * PAGE, 18 * PAGE, offset] {
            image.restore();
            let file = OpenOptions::new().write(true).open(image.path());
            let file = file.expect("the file");
            file.write_all_at(&vec![0; zeroed as usize], 0)
                .expect("written");
            file.write_all_at(bytes, offset).expect("written");
            let before = fs::read(image.path()).expect("the file");
            for said in [
                image.offline(&["inspect"]),
                image.offline(&["check", "--repair"]),
                image.create(&daemon, &[]),
            ] {
                let said = said.failure(IN_THE_WAY);
                assert!(
                    said.contains(name) && said.contains("held a pool"),
                    "{said}"
                );
            }
            assert!(
                fs::read(image.path()).expect("the file") == before,
                "{name}"
            );
            // The advice works as it is printed.
            let said = image.offline(&["inspect"]).failure(IN_THE_WAY);
            let commands: Vec<_> = said.split('`').skip(1).step_by(2).collect();
            assert_eq!(commands.len(), 2, "{said}");
            for command in commands {
                let mut shell = Command::new("sh");
                shell.args(["-c", command]);
                let _ = finish(shell).success();
            }
            image.assert_whole(&daemon, &[]);
        }
    }
}

#[test]
fn a_file_system_that_was_made_over_a_pool_is_left_alone() {
    let image = FlushedPool::with_room(&[16 * MIB], 12 * MIB);
    let tools: [(&str, &[&str]); 2] = [
        ("mkfs.ext4", &["-F", "-q", "-E", "nodiscard"]),
        ("mkswap", &[]),
    ];
    for (tool, options) in tools {
        image.restore();
        let made = Command::new(tool).args(options).arg(image.path()).output();
        let Ok(made) = made else {
            skipped(tool, "it is not there");
            continue;
        };
        assert!(made.status.success(), "{made:?}");
        let before = fs::read(image.path()).expect("the file");
        let daemon = Daemon::start();
        let _ = image.offline(&["check", "--repair"]).failure(IN_THE_WAY);
        let _ = image.create(&daemon, &[]).failure(IN_THE_WAY);
        assert!(
            fs::read(image.path()).expect("the file") == before,
            "{tool}"
        );
    }
}

#[test]
fn the_mark_of_a_failure_is_shown_with_its_time_and_cleared_by_a_repair() {
    let image = FlushedPool::with_room(&[16 * MIB], 12 * MIB);
    let daemon = Daemon::start();
    let mode = OpenMode::ReadWrite { history: 1 };
    let opened = open(disk(image.path()), mode, &mut |_, _| {}, &mut |_, _| {});
    let mut metadata = opened.expect("a pool").metadata;
    metadata.mark_failure("cannot write: Input/output error", 1_769_903_999);
    drop(metadata);
    let time = "2026-01-31T23:59:59Z";
    let said = image.offline(&["inspect"]);
    assert!(
        said.stdout.contains("cannot write: Input/output error"),
        "{said:?}"
    );
    assert!(said.stdout.contains(time), "{said:?}");
    let said = said.failure(DAMAGED_METADATA);
    assert!(
        said.contains("nothing is damaged") && said.contains("pool check --repair"),
        "{said}"
    );
    let found = json(&image.offline(&["inspect", "--json"]).stdout);
    assert_eq!(found["mark"]["time"], time);
    assert_eq!(found["mark"]["unix_seconds"], 1_769_903_999);
    for refused in [image.create(&daemon, &[]), image.offline(&["rename"])] {
        let said = refused.failure(DAMAGED_METADATA);
        assert!(said.contains(time), "{said}");
        assert_eq!(said.matches("pool check --repair").count(), 1, "{said}");
    }
    let said = image.offline(&["check", "--repair"]).success();
    assert!(said.contains("cleared: ") && said.contains(time), "{said}");
    let found = json(&image.offline(&["inspect", "--json"]).success());
    assert_eq!(found["mark"], json("null"));
    image.assert_whole(&daemon, &[]);
}

#[test]
fn a_file_that_lost_its_unused_end_is_sound_and_shrinks_when_it_is_opened_for_writing() {
    let image = FlushedPool::with_room(&[16 * MIB], 10 * MIB);
    let daemon = Daemon::start();
    let cut = 12 * MIB;
    assert!(image.end_of_blocks() <= cut);
    let file = OpenOptions::new().write(true).open(image.path());
    file.and_then(|file| file.set_len(cut)).expect("cut");
    let said = image.offline(&["inspect"]).success();
    let note =
        "lacks 4194304 bytes of the pool's unused end; opening it for writing shrinks the pool";
    assert!(said.contains(note), "{said}");
    let found = json(&image.offline(&["inspect", "--json"]).success());
    assert_eq!(
        (&found["missing_bytes"], &found["sound"]),
        (&json("4194304"), &json("true"))
    );
    let _ = image.create(&daemon, &["--read-only"]).success();
    assert_holds(&daemon.connect(), image.name(), image.blocks(), &[]);
    let _ = daemon.run(&["pool", "destroy", image.name()]).success();
    image.assert_whole(&daemon, &[]);
    let found = json(&image.offline(&["inspect", "--json"]).success());
    assert_eq!(
        (&found["missing_bytes"], &found["total_size"]),
        (&json("0"), &json("12582912"))
    );
}

#[test]
fn a_file_that_lost_extents_can_be_read_as_far_as_it_goes() {
    let image = FlushedPool::killed(&[16 * MIB, 24 * MIB, 36 * MIB]);
    let daemon = Daemon::start();
    // In the second extent, and in the first one, where its second copies begin.
    for cut in [23 * MIB, 8 * MIB + 10 * PAGE, 8 * MIB] {
        image.restore();
        assert_read_as_far_as_it_goes(&image, &daemon, cut);
    }
}

fn assert_read_as_far_as_it_goes(image: &FlushedPool, daemon: &Daemon, cut: u64) {
    let file = OpenOptions::new().write(true).open(image.path());
    file.and_then(|file| file.set_len(cut)).expect("cut");
    let refusals = [
        image.offline(&["inspect"]),
        image.offline(&["check", "--repair"]),
        image.offline(&["rename"]),
        image.create(daemon, &[]),
    ];
    for refusal in refusals {
        let _ = refusal.failure(DAMAGED_METADATA);
        assert_eq!(fs::metadata(image.path()).expect("the file").len(), cut);
    }
    let _ = image.create(daemon, &["--read-only"]).success();
    let runtime = daemon.connect();
    let pool = chimaera_bdev_client::Client::open(&runtime, image.name()).expect("open");
    let listed: Result<Vec<_>, _> = pool
        .all_blocks(chimaera_bdev_client::PoolQuery::Local)
        .collect();
    let listed = listed.expect("a list");
    let is_held = |end: u64| end <= cut;
    for owned in image.blocks() {
        let block = owned.block;
        if is_held(block.offset + block.size) {
            assert!(listed.contains(owned), "{owned:?}");
            let mut buffer = runtime
                .allocate_buffer(block.size as usize)
                .expect("a buffer");
            let read = pool.read(chimaera_bdev_client::PoolQuery::Local, &block, &mut buffer);
            assert_eq!(read.expect("it is there"), block.size);
        }
    }
    let _ = daemon.run(&["pool", "destroy", image.name()]).success();
}

#[test]
fn a_copy_becomes_a_pool_of_its_own_and_is_open_beside_the_original() {
    let image = FlushedPool::with_room(&[16 * MIB], 12 * MIB);
    let daemon = Daemon::start();
    let [drawn, chosen] = ["drawn", "chosen"].map(|name| {
        let path = image.beside(name);
        fs::copy(image.path(), &path).expect("copied");
        path
    });
    let _ = image.create(&daemon, &[]).success();
    let original = json(&image.offline(&["inspect", "--json"]).success());
    let renamed = chimaera(&["pool", "rename", "--copy", text(&drawn), "--json"]).success();
    let renamed = json(&renamed);
    assert_ne!(renamed["uuid"], original["uuid"]);
    assert_ne!(renamed["id"], original["id"]);
    let said = chimaera(&["pool", "rename", "--copy", text(&chosen), "--id", "8000.7"]).success();
    assert!(said.contains("with id 8000.7 and UUID"), "{said}");
    for (path, id) in [(&drawn, renamed["id"].as_str()), (&chosen, Some("8000.7"))] {
        let found = json(&chimaera(&["pool", "inspect", text(path), "--json"]).success());
        assert_eq!(
            (found["id"].as_str(), found["sound"].as_bool()),
            (id, Some(true))
        );
        assert_eq!(found["name"].as_str(), Some(text(path)));
        assert_eq!(found["ended_well"], true);
        let create = ["pool", "create", text(path), "--type", "file"];
        let _ = daemon.run(&create).success();
        assert_holds(&daemon.connect(), text(path), image.blocks(), &[]);
    }
    // An id alone makes no pool of its own.
    let wrong = ["pool", "rename", text(&chosen), "--id", "8000.8"];
    let _ = chimaera(&wrong).failure(WRONG_USAGE);
}

#[test]
fn a_pool_with_an_id_that_none_can_have_is_refused_as_it_is_and_gets_another() {
    /// Where the superblock has the pool's id.
    const ID: usize = 160;
    let image = FlushedPool::with_room(&[16 * MIB], 12 * MIB);
    let daemon = Daemon::start();
    let geometry = Geometry::new(16 * MIB / PAGE).expect("room");
    let places = geometry.superblocks().into_iter();
    let places: Vec<_> = places.map(|page| (page * PAGE) as usize).collect();
    for id in ["0.0", "1.0"] {
        image.restore();
        let mut bytes = fs::read(image.path()).expect("the file");
        let major = u32::from(id == "1.0").to_le_bytes();
        change_superblocks(&mut bytes, &places, ID, &[major, [0; 4]].concat());
        fs::write(image.path(), &bytes).expect("written");
        for more in [&[][..], &["--read-only"]] {
            let said = image.create(&daemon, more).failure(DAMAGED_METADATA);
            assert!(said.contains(&format!("the id {id}")), "{said}");
            assert!(said.contains("pool rename --copy"), "{said}");
            assert!(fs::read(image.path()).expect("the file") == bytes, "{said}");
        }
        let _ = chimaera(&["pool", "rename", "--copy", image.name()]).success();
        image.assert_whole(&daemon, &[]);
    }
}

#[test]
fn a_copy_of_a_pool_of_version_1_has_to_be_upgraded_first() {
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let file = fs::File::create(&path).expect("a file");
    file.set_len(16 * MIB).expect("a length");
    let identity = Identity {
        pool: PoolId::new(8000, 0),
        name: text(&path).to_owned(),
        owner: PoolOwner::default(),
        alignment: 4096,
        io_depth: 32,
        io_engine: IoEngine::Auto,
        metrics: PerfMetrics::default(),
        scrubs: false,
    };
    let geometry = Geometry::of_version(FormatVersion::One, 16 * MIB / PAGE).expect("room");
    let birth = birth().expect("random numbers");
    let made = Metadata::format(disk(&path), identity, geometry, birth, false);
    drop(made.expect("made"));
    let before = fs::read(&path).expect("the file");
    let said = chimaera(&["pool", "rename", "--copy", text(&path)]).failure(FAILED);
    assert!(
        said.contains("version 1") && said.contains("pool upgrade"),
        "{said}"
    );
    assert!(fs::read(&path).expect("the file") == before);
    let said = chimaera(&["pool", "inspect", text(&path)]).success();
    assert!(
        said.contains("not protected against losing a MiB: version 1"),
        "{said}"
    );
}

#[test]
fn a_small_pool_says_that_it_is_not_protected() {
    let daemon = Daemon::start();
    let folder = disk_folder();
    for (size, is_protected) in [("3MiB", false), ("4MiB", true)] {
        let path = folder.path().join(size);
        let _ = daemon.create_file_pool(&path, size).success();
        let said = chimaera(&["pool", "inspect", text(&path)]).success();
        let note = "not protected against losing a MiB: the pool was made with less than 4 MiB";
        assert_eq!(said.contains(note), !is_protected, "{said}");
        let found = json(&chimaera(&["pool", "inspect", text(&path), "--json"]).success());
        assert_eq!(found["protected"], is_protected);
        assert_eq!(found["openings"], 1);
    }
}

#[test]
fn two_uses_of_one_image_have_different_histories() {
    /// Where the superblock has the newest history, and the one before.
    const HISTORY: usize = 128;
    let image = FlushedPool::with_room(&[16 * MIB], 12 * MIB);
    let daemon = Daemon::start();
    let histories = [(); 2].map(|()| {
        // As a virtual machine goes back to an older image.
        image.restore();
        image.assert_whole(&daemon, &[]);
        let file = fs::read(image.path()).expect("the file");
        let word = |at: usize| file[at..at + 8].to_vec();
        (word(HISTORY), word(HISTORY + 8))
    });
    let [one, other] = histories;
    assert_ne!(one.0, other.0);
    assert_eq!(one.1, other.1, "both follow the same one");
}
