//! Creating a pool succeeds, or says what to do and leaves nothing behind.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use chimaera_bdev_format::Geometry;
use chimaera_bdev_proto::{CreateParams, IoEngine, MEGABYTE, PerfMetrics, UNIT_BYTES};
use chimaera_chimod::ModuleError;
use chimaera_proto::{PoolId, Status};
use chimaera_testing::disk_folder;

use super::with_every_engine;
use crate::testing::{ROOT, TestPool, file_bytes, file_params, memory_folder, name_in, ram_params};

fn refusal(name: &str, params: &CreateParams) -> ModuleError {
    match TestPool::create(name, params, 1) {
        Ok(_) => panic!("{name} was made with {params:?}"),
        Err(error) => error,
    }
}

#[track_caller]
fn assert_refused(name: &str, params: &CreateParams, status: Status, texts: &[&str]) {
    let error = refusal(name, params);
    assert_eq!(error.failure.status, status, "{error}");
    for text in texts {
        assert!(error.message.contains(text), "no {text:?} in {error}");
    }
}

#[test]
fn io_depth_and_alignment_have_limits_on_files_only() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let params = file_params(MEGABYTE);
    for io_depth in [0, CreateParams::MAX_IO_DEPTH + 1, u32::MAX] {
        let params = CreateParams {
            io_depth: Some(io_depth),
            ..params
        };
        let texts = ["io_depth", &io_depth.to_string(), "4096"];
        assert_refused(&name, &params, Status::InvalidArgument, &texts);
    }
    for alignment in [1, 256, 768, 8192, 1 << 31] {
        let params = CreateParams {
            alignment: Some(alignment),
            ..params
        };
        let texts = [&alignment.to_string(), "512", "4096"];
        assert_refused(&name, &params, Status::Alignment, &texts);
    }
    assert!(!fs::exists(&name).expect("the folder is there"));
    let ignored = CreateParams {
        io_depth: Some(0),
        alignment: Some(3),
        ..ram_params(MEGABYTE)
    };
    TestPool::create("memory", &ignored, 1).expect("memory has neither");
}

#[test]
fn a_size_that_no_file_can_have_is_refused_with_advice() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let advice = "give a smaller size";
    let texts = [name.as_str(), "more than any file can have", advice];
    for size in [u64::MAX, 1 << 63] {
        assert_refused(&name, &file_params(size), Status::InvalidArgument, &texts);
    }
    // A file system that has files of this size refuses nothing.
    let size = i64::MAX as u64 - 4095;
    let grown = File::create(&name).and_then(|file| file.set_len(size));
    fs::remove_file(&name).expect("it was made");
    if let Err(error) = grown {
        let refused = refusal(&name, &file_params(size));
        assert_eq!(
            i32::from(refused.failure.errno),
            error.raw_os_error().expect("a number")
        );
        assert!(refused.message.contains(advice), "{refused}");
    }
    assert!(!fs::exists(&name).expect("the folder is there"));
}

#[test]
fn metrics_are_finite_and_not_negative() {
    for value in [f64::NAN, f64::INFINITY, -1.0] {
        let metrics = PerfMetrics {
            write_latency_us: value,
            ..PerfMetrics::default()
        };
        let params = CreateParams {
            perf_metrics: Some(metrics),
            ..ram_params(MEGABYTE)
        };
        assert_refused(
            "memory",
            &params,
            Status::InvalidArgument,
            &["write_latency_us"],
        );
    }
}

#[test]
fn parameters_of_another_kind_are_refused() {
    let recorder = std::sync::Arc::default();
    let pool =
        TestPool::create_recorded("memory", &ram_params(MEGABYTE), 1, recorder).expect("made");
    let garbage = chimaera_chimod::CreateAgain {
        may_manage: true,
        creator: ROOT,
        params: &[1, 2, 3],
    };
    let error = pool.handle().create_again(garbage).expect_err("garbage");
    assert_eq!(error.failure.status, Status::InvalidArgument);
    assert_eq!(pool.handle().module().name(), "chimaera_bdev");
    let _ = PoolId::new(0, 0);
}

#[test]
fn only_files_and_block_devices_are_opened() {
    let folder = disk_folder();
    let fifo = name_in(&folder, "fifo");
    nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let socket = name_in(&folder, "socket");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let directory = name_in(&folder, "");
    for (name, kind) in [
        (directory.as_str(), "a directory"),
        ("/dev/null", "a character device"),
        (fifo.as_str(), "a FIFO"),
        (socket.as_str(), "a socket"),
    ] {
        let texts = [name, kind, "block device"];
        assert_refused(
            name,
            &file_params(MEGABYTE),
            Status::InvalidArgument,
            &texts,
        );
    }
    for name in ["", "a\0b"] {
        assert_refused(
            name,
            &file_params(MEGABYTE),
            Status::InvalidArgument,
            &["path"],
        );
    }
    let below_a_file = name_in(&folder, "file");
    File::create(&below_a_file).expect("made");
    let name = format!("{below_a_file}/pool");
    let texts = [name.as_str(), "is no directory"];
    assert_refused(&name, &file_params(MEGABYTE), Status::NotFound, &texts);
}

#[test]
fn a_path_that_leads_nowhere_is_told_by_what_is_wrong_with_it_and_nothing_is_made() {
    let folder = disk_folder();
    let link = |from: &str, to: &str| {
        let from = name_in(&folder, from);
        std::os::unix::fs::symlink(name_in(&folder, to), &from).expect("linked");
        from
    };
    let absent = name_in(&folder, "absent");
    let dangling = link("dangling", "absent");
    let chain = link("chain", "dangling");
    let circle = link("circle", "back");
    link("back", "circle");
    let file = name_in(&folder, "file");
    File::create(&file).expect("made");
    let long = name_in(&folder, &"x".repeat(300));
    let (gone, refused) = (Status::NotFound, Status::InvalidArgument);
    let cases = [
        (
            dangling,
            gone,
            vec!["a symbolic link to", &absent, "does not exist"],
        ),
        (chain, gone, vec!["a symbolic link to", "dangling"]),
        (circle, refused, vec!["in a circle", "name the file itself"]),
        (link("to-folder", ""), refused, vec!["is a directory"]),
        (long, refused, vec!["too long", "255 bytes"]),
        (
            format!("{absent}/"),
            refused,
            vec!["ends with a slash", "leave that out"],
        ),
        (
            format!("{file}/"),
            gone,
            vec!["ends with a slash", "leave that out"],
        ),
        (
            format!("{absent}/pool"),
            gone,
            vec!["folder does not exist"],
        ),
    ];
    for (name, status, texts) in cases {
        for size in [0, MEGABYTE] {
            // Without a size no file would be made, and the error asks for one first.
            if size == 0 && texts[0].starts_with("folder") {
                continue;
            }
            let texts = [&[name.as_str()], &texts[..]].concat();
            assert_refused(&name, &file_params(size), status, &texts);
        }
    }
    assert!(!fs::exists(&absent).expect("the folder is there"));
    // A link to a file that exists works as the file does.
    let good = link("good", "file");
    TestPool::create(&good, &file_params(MEGABYTE), 1).expect("made");
    assert_eq!(fs::metadata(&file).expect("there").len(), MEGABYTE);
}

#[test]
fn a_small_file_of_somebodys_is_refused_for_what_it_holds() {
    let folder = disk_folder();
    let name = name_in(&folder, "passwd");
    let text = "\0root:x:0:0::/root:/bin/sh\n";
    fs::write(&name, text).expect("written");
    let words = [&name, "it holds data", "at offset 0x1", "and no pool"];
    for size in [0, MEGABYTE] {
        assert_refused(&name, &file_params(size), Status::NotBlank, &words);
        assert_eq!(fs::read_to_string(&name).expect("there"), text);
    }
}

#[test]
fn a_file_and_a_size_that_are_too_small_are_told_with_the_least_that_will_do() {
    let least = Geometry::min_pool_bytes();
    let give = format!("give at least {least}");
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let of_100 = file_params(100);
    let texts = ["size is 100 bytes", &give];
    assert_refused(&name, &of_100, Status::InvalidArgument, &texts);
    assert_refused(
        "memory",
        &ram_params(100),
        Status::InvalidArgument,
        &["give at least 4096"],
    );
    let read_only = CreateParams {
        read_only: true,
        ..file_params(0)
    };
    for len in [0, 1, 100, 4095] {
        fs::write(&name, vec![0; len]).expect("written");
        let has = format!("{name} has {len} bytes, and a pool needs {least}: give a size");
        for overwrite in [false, true] {
            let params = CreateParams {
                overwrite,
                ..file_params(0)
            };
            assert_refused(&name, &params, Status::InvalidArgument, &[&has]);
        }
        let texts = [
            "nothing but zeroes",
            "name the file or device that has the pool",
        ];
        assert_refused(&name, &read_only, Status::NotFound, &texts);
        assert_eq!(fs::read(&name).expect("there"), vec![0; len]);
    }
    fs::write(&name, [0; 4096]).expect("written");
    assert_refused(
        &name,
        &file_params(0),
        Status::InvalidArgument,
        &["too few", &give],
    );
    TestPool::create(&name, &file_params(least), 1).expect("as it was told");
}

#[test]
fn a_file_has_one_pool_at_a_time_under_whatever_name() {
    for params in with_every_engine(&file_params(MEGABYTE)) {
        check_exclusive(&params);
    }
}

fn check_exclusive(params: &CreateParams) {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let pool = TestPool::create(&name, params, 1).expect("made");
    let link = name_in(&folder, "link");
    std::os::unix::fs::symlink(&name, &link).expect("linked");
    let other = name_in(&folder, "other");
    fs::hard_link(&name, &other).expect("linked");
    let larger = file_params(2 * MEGABYTE);
    for name in [&name, &link, &other] {
        assert_refused(name, &larger, Status::Busy, &[name, "in use"]);
    }
    let len = fs::metadata(&name).expect("still there").len();
    assert_eq!(len, MEGABYTE, "a refused pool changes nothing");

    drop(pool);
    let elsewhere = File::open(&name).expect("opened");
    elsewhere.try_lock().expect("nobody has it");
    assert_refused(&name, &larger, Status::Busy, &[&name]);
    elsewhere.unlock().expect("unlocked");
    TestPool::create(&name, &larger, 1).expect("free again");
}

#[test]
fn a_new_file_belongs_to_the_daemon_alone() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let params = file_params(file_bytes(8) + 5000);
    let pool = TestPool::create(&name, &params, 1).expect("made");
    let metadata = fs::metadata(&name).expect("there");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let len = file_bytes(8) + 4096;
    assert_eq!(metadata.len(), len, "whole units of 4 KiB");
    // The file system counts in sectors, and needs some for itself.
    let taken = metadata.blocks() * 512;
    let geometry = Geometry::new(len / UNIT_BYTES).expect("room");
    let own: u64 = geometry
        .set_aside()
        .map(|pages| (pages.end - pages.start) * UNIT_BYTES)
        .sum();
    assert!(taken <= own + 65_536, "the rest is sparse: {taken} bytes");
    assert!(taken >= own, "metadata has its space: {taken} bytes");
    let reserved = pool.stats().metadata_size;
    // Besides, places at 2 and 8 MiB are kept free of blocks, and nothing is written there.
    assert_eq!(reserved - own, 2 * 6 * UNIT_BYTES);
}

#[test]
fn a_creation_that_fails_late_leaves_the_file_as_it_was() {
    let too_large = 1 << 60;
    let mut folders = vec![disk_folder()];
    folders.extend(memory_folder());
    for folder in &folders {
        let name = name_in(folder, "pool");
        refusal(&name, &file_params(too_large));
        assert!(!fs::exists(&name).expect("the folder is there"));

        fs::write(&name, [7; 5000]).expect("written");
        refusal(&name, &file_params(too_large));
        assert_eq!(fs::read(&name).expect("read"), [7; 5000]);
    }
}

#[test]
fn missing_rights_are_told_as_such() {
    let nobody = nix::unistd::Uid::from_raw(65_534);
    if !nix::unistd::geteuid().is_root() {
        // The daemon's own rights are those of the test: take them away from the file instead.
        let folder = disk_folder();
        let name = name_in(&folder, "pool");
        fs::write(&name, [0; 4096]).expect("written");
        fs::set_permissions(&name, PermissionsExt::from_mode(0o400)).expect("changed");
        assert_refused(&name, &file_params(0), Status::PermissionDenied, &[&name]);
        return;
    }
    let folder = disk_folder();
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("changed");
    let name = name_in(&folder, "pool");
    fs::write(&name, [0; 4096]).expect("written");
    fs::set_permissions(&name, PermissionsExt::from_mode(0o444)).expect("changed");
    // The user of file accesses is set per thread, so this affects no other test.
    let thread = std::thread::spawn(move || {
        nix::unistd::setfsuid(nobody);
        let texts = [name.as_str(), "Permission denied", "as whom this is done"];
        assert_refused(&name, &file_params(0), Status::PermissionDenied, &texts);
        let absent = name.clone() + "2";
        assert_refused(
            &absent,
            &file_params(MEGABYTE),
            Status::PermissionDenied,
            &[],
        );
    });
    thread.join().expect("the thread's assertions hold");
}

#[test]
fn the_page_cache_is_told_of_and_only_where_it_is_used() {
    let on_disk = disk_folder();
    // The engine is named, because falling back to it would be logged, too.
    let params = CreateParams {
        io_engine: IoEngine::Libaio,
        ..file_params(MEGABYTE)
    };
    let pool = TestPool::create(&name_in(&on_disk, "pool"), &params, 1).expect("made");
    assert!(pool.stats().direct_io);
    assert_eq!(pool.recorder().log(), []);
    let Some(in_memory) = memory_folder() else {
        return;
    };
    let name = name_in(&in_memory, "pool");
    let pool = TestPool::create(&name, &file_params(MEGABYTE), 1).expect("made");
    assert!(!pool.stats().direct_io);
    let log = pool.recorder().log();
    assert!(
        matches!(&log[..], [(2, text)] if text.contains("page cache")),
        "{log:?}"
    );
}

#[test]
fn parameters_are_compared_with_what_the_pool_is() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let params = file_params(MEGABYTE);
    let pool = TestPool::create(&name, &params, 1).expect("made");
    let same = [
        params,
        file_params(MEGABYTE + 4095),
        file_params(0),
        CreateParams {
            perf_metrics: Some(PerfMetrics::default()),
            ..params
        },
        CreateParams {
            io_depth: Some(32),
            alignment: Some(4096),
            ..params
        },
        CreateParams {
            alignment: Some(0),
            ..params
        },
    ];
    for params in same {
        pool.ask_again(&params).expect("the same");
    }
    let other = CreateParams {
        io_depth: Some(64),
        total_size: 2 * MEGABYTE,
        ..params
    };
    let error = pool.ask_again(&other).expect_err("different");
    assert_eq!(error.failure.status, Status::ParameterMismatch);
    assert!(
        error.message.contains("io_depth is 32, asked for 64"),
        "{error}"
    );
    assert!(
        error.message.contains("size is 1048576, asked for 2097152"),
        "{error}"
    );
    assert!(!error.message.contains("alignment"), "{error}");
    let error = pool
        .ask_again(&ram_params(MEGABYTE))
        .expect_err("different");
    assert!(error.message.contains("bdev_type is file, asked for ram"));

    drop(pool);
    let half = name_in(&folder, "half");
    let file = File::create(&half).expect("made");
    file.set_len(MEGABYTE).expect("set");
    let part = TestPool::create(&half, &file_params(MEGABYTE / 2), 1).expect("a part of the file");
    let error = part
        .ask_again(&file_params(0))
        .expect_err("not the whole file");
    let words = "size is 524288, asked for all of its file or device, which has 1048576";
    assert!(error.message.contains(words), "{error}");

    let memory = TestPool::create("memory", &ram_params(MEGABYTE), 1).expect("made");
    let ignored = CreateParams {
        io_depth: Some(7),
        ..ram_params(MEGABYTE)
    };
    memory.ask_again(&ignored).expect("memory has no depth");
    memory
        .ask_again(&ram_params(2 * MEGABYTE))
        .expect_err("different");
}
