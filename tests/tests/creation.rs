//! What keeps a pool from being made, and what makes it as asked, against a real daemon.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::thread;

use chimaera_bdev_client::{Client, CreateOptions, PerfMetrics, PoolId, PoolQuery, Status};
use chimaera_bdev_format::Geometry;
use chimaera_tests::{
    Daemon, Faulty, LoopDevice, MIB, assert_empty, assert_not_created, assert_refused, chimaera,
    client, disk_folder, exit, file_bytes, skipped, text,
};

const QUERY: PoolQuery = PoolQuery::Local;

#[test]
fn a_file_that_is_not_there_is_not_found() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = client(&runtime, 0);
    let absent = daemon.folder().join("absent");
    assert_not_created(
        &pool,
        text(&absent),
        &CreateOptions::file(),
        Status::NotFound,
        &["does not exist", "give a"],
    );
    let nowhere = daemon.folder().join("nowhere/file");
    assert_not_created(
        &pool,
        text(&nowhere),
        &CreateOptions::file().size(MIB),
        Status::NotFound,
        &["cannot create"],
    );
    assert!(!absent.exists() && !nowhere.exists());
}

#[test]
fn parameters_that_make_no_pool_are_refused_and_leave_no_file() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = client(&runtime, 0);
    let file = disk_folder();
    let path = file.path().join("pool");
    let name = text(&path);
    let sized = CreateOptions::file().size(MIB);
    let invalid = Status::InvalidArgument;
    let refused = |name: &str, options: CreateOptions, status, words: &[&str]| {
        assert_not_created(&pool, name, &options, status, words);
    };
    refused("ram", CreateOptions::ram(0), invalid, &["needs a size"]);
    refused("ram", CreateOptions::ram(4095), invalid, &["at least 4096"]);
    let least = format!("at least {}", Geometry::min_pool_bytes());
    refused(name, sized.size(100), invalid, &[&least]);
    refused(name, sized.io_depth(0), invalid, &["io_depth is 0"]);
    refused(name, sized.io_depth(4097), invalid, &["io_depth is 4097"]);
    for alignment in [1, 256, 513, 8192, u32::MAX] {
        let words = [&*format!("alignment is {alignment}"), "power of two"];
        refused(name, sized.alignment(alignment), Status::Alignment, &words);
    }
    let metrics = PerfMetrics {
        iops: f64::NAN,
        ..PerfMetrics::default()
    };
    refused(name, sized.perf_metrics(metrics), invalid, &["iops is NaN"]);
    assert!(!path.exists(), "no refused creation leaves a file");
    refused("", CreateOptions::ram(MIB), invalid, &["from 1 to 4096"]);
    let long = "x".repeat(4097);
    let made = pool.create(PoolQuery::Dynamic, &long, &CreateOptions::ram(MIB));
    assert_refused(made, invalid, &["4097", "x…"]);

    let admin = Client::new(&runtime, PoolId::ADMIN);
    let refused = admin.create(PoolQuery::Dynamic, "mine", &CreateOptions::ram(MIB));
    assert_refused(refused, invalid, &["admin pool"]);
    let destroyed = runtime.admin().destroy_pool(PoolId::ADMIN);
    assert_refused(
        destroyed,
        Status::PermissionDenied,
        &["cannot be destroyed"],
    );
}

#[test]
fn what_is_no_file_or_device_is_not_opened() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let pool = client(&runtime, 0);
    let fifo = daemon.folder().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let socket = daemon.socket();
    let cases = [
        (text(daemon.folder()), "is a directory"),
        ("/dev/null", "is a character device"),
        (text(&fifo), "is a FIFO"),
        (text(&socket), "is a socket"),
    ];
    for (name, words) in cases {
        assert_not_created(
            &pool,
            name,
            &CreateOptions::file().size(MIB),
            Status::InvalidArgument,
            &[words, "regular file or a block device"],
        );
    }
}

#[test]
fn a_file_pool_without_a_size_is_as_large_as_its_file() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let name = text(&path);
    let file = File::create(&path).expect("a file");
    for len in [0, 4095] {
        file.set_len(len).expect("a length");
        assert_not_created(
            &client(&runtime, 0),
            name,
            &CreateOptions::file(),
            Status::InvalidArgument,
            &[&format!("has {len} bytes"), "give a"],
        );
    }
    file.set_len(MIB + 5000).expect("a length");
    let pool = client(&runtime, 0);
    let info = pool
        .create(PoolQuery::Dynamic, name, &CreateOptions::file())
        .expect("the pool is made");
    assert!(info.created);
    let stats = assert_empty(&pool);
    assert_eq!(stats.total_size, MIB + 4096, "whole blocks only");
    assert_eq!(file.metadata().expect("a file").len(), MIB + 5000);
}

#[test]
fn a_file_grows_to_the_size_asked_for() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let folder = disk_folder();
    let path = folder.path().join("pool");
    std::fs::write(&path, [0; 4096]).expect("a blank file");
    let pool = client(&runtime, 0);
    let size = file_bytes(2);
    let options = CreateOptions::file().size(size);
    pool.create(PoolQuery::Dynamic, text(&path), &options)
        .expect("the pool is made");
    let file = File::open(&path).expect("the file");
    assert_eq!(file.metadata().expect("a file").len(), size);
    assert_eq!(assert_empty(&pool).total_size, size);
    // A block of the part that was added is as good as any.
    let blocks = pool.allocate_blocks(QUERY, 2 * MIB).expect("all of it");
    let buffer = runtime.allocate_buffer(4096).expect("a buffer");
    let last = blocks.iter().max().expect("two blocks");
    pool.write_at(QUERY, last, MIB - 4096, &buffer)
        .expect("a write to its end");
}

#[test]
fn a_file_that_holds_something_is_refused_and_keeps_it() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let folder = disk_folder();
    let path = folder.path().join("file");
    let bytes = [0x5A; 4096];
    std::fs::write(&path, bytes).expect("a file");
    for size in [0, 2 * MIB] {
        assert_not_created(
            &client(&runtime, 0),
            text(&path),
            &CreateOptions::file().size(size),
            Status::NotBlank,
            &["holds data of an unknown kind", "overwrite"],
        );
        assert_eq!(std::fs::read(&path).expect("the file"), bytes);
    }
}

#[test]
fn a_file_serves_one_pool_at_a_time_in_one_daemon_and_in_two() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let options = CreateOptions::file().size(MIB);
    let pool = client(&runtime, 0);
    pool.create(PoolQuery::Dynamic, text(&path), &options)
        .expect("the pool is made");
    // The same file under another name is the same file.
    let link = folder.path().join("link");
    std::fs::hard_link(&path, &link).expect("a link");
    let busy = ["is in use", "use another file"];
    assert_not_created(
        &client(&runtime, 1),
        text(&link),
        &options,
        Status::Busy,
        &busy,
    );
    let second = Daemon::start();
    let elsewhere = client(&second.connect(), 0);
    assert_not_created(&elsewhere, text(&path), &options, Status::Busy, &busy);
    let stats = assert_empty(&pool);
    assert_eq!(stats.total_size, MIB, "the pool is as it was");

    runtime
        .admin()
        .destroy_pool(pool.pool_id())
        .expect("the pool goes");
    let info = elsewhere.create(PoolQuery::Dynamic, text(&path), &options);
    assert!(info.expect("the file is free again").created);
}

#[test]
fn a_pool_that_exists_otherwise_says_what_differs() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let name = text(&path);
    let options = CreateOptions::file().size(MIB);
    let pool = client(&runtime, 0);
    pool.create(PoolQuery::Dynamic, name, &options)
        .expect("the pool is made");

    let mismatch = Status::ParameterMismatch;
    let refused = |pool: &Client, name: &str, options: CreateOptions, words: &[&str]| {
        let result = pool.create(PoolQuery::Dynamic, name, &options);
        assert_refused(result, mismatch, words);
    };
    refused(
        &client(&runtime, 1),
        name,
        options,
        &["exists with id 8000.0, asked for 8000.1"],
    );
    refused(
        &pool,
        "another",
        options,
        &["pool 8000.0 exists with name", "asked for /", "/another"],
    );
    refused(
        &pool,
        name,
        CreateOptions::ram(MIB),
        &["bdev_type is file, asked for ram"],
    );
    refused(
        &pool,
        name,
        options.size(2 * MIB).io_depth(64).alignment(512),
        &[
            "size is 1048576, asked for 2097152",
            "io_depth is 32, asked for 64",
            "alignment is 4096, asked for 512",
        ],
    );
    let file = std::fs::metadata(&path).expect("the file");
    assert_eq!(file.len(), MIB, "a refused request grows nothing");
}

#[test]
fn a_pool_of_another_module_says_so_when_it_is_asked_for() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let faulty = Faulty::created(&runtime, 0);
    let info = faulty.create("").expect("it is there");
    let bdev = Client::new(&runtime, faulty.pool_id());
    assert_refused(
        bdev.create(PoolQuery::Dynamic, &info.name, &CreateOptions::ram(MIB)),
        Status::WrongModule,
        &["of the module chimaera_faulty, not of chimaera_bdev"],
    );
    assert_refused(
        Client::open(&runtime, &info.name),
        Status::WrongModule,
        &["a pool of the module chimaera_faulty, not of chimaera_bdev"],
    );
}

#[test]
fn a_pool_that_is_asked_for_again_in_whichever_way_is_the_same_pool() {
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let name = text(&path);
    let options = CreateOptions::file().size(MIB);
    let pool = client(&runtime, 0);
    pool.create(PoolQuery::Dynamic, name, &options)
        .expect("the pool is made");
    for same in [
        options,
        CreateOptions::file(),
        options.io_depth(32).alignment(4096),
        options.alignment(0),
        options.perf_metrics(PerfMetrics::default()),
    ] {
        for client in [&pool, &Client::new(&runtime, PoolId::NULL)] {
            let info = client
                .create(PoolQuery::Dynamic, name, &same)
                .expect("the same pool");
            assert!(!info.created);
            assert_eq!(info.id, pool.pool_id());
        }
    }
}

#[test]
fn a_file_of_the_kernels_own_is_refused_as_such() {
    let shown = Path::new("/sys/kernel/uevent_seqnum");
    if !shown.exists() {
        return skipped("a file of the kernel's own", "no sysfs");
    }
    let daemon = Daemon::start();
    assert_not_created(
        &client(&daemon.connect(), 0),
        text(shown),
        &CreateOptions::file(),
        Status::InvalidArgument,
        &["a file of the kernel's own", text(shown)],
    );
}

#[test]
fn a_device_that_is_read_only_is_refused_as_such() {
    let device = match LoopDevice::attach_with(MIB, &["--read-only"]) {
        Ok(device) => device,
        Err(reason) => return skipped("a read-only device", &reason),
    };
    let daemon = Daemon::start();
    assert_not_created(
        &client(&daemon.connect(), 0),
        text(device.path()),
        &CreateOptions::file(),
        Status::PermissionDenied,
        &["Read-only", "read_only"],
    );
}

#[test]
fn a_file_that_an_attribute_keeps_from_being_written_is_refused_as_such() {
    const WHAT: &str = "a file that cannot be changed";
    let folder = disk_folder();
    let file = folder.path().join("pool");
    fs::write(&file, vec![0; MIB as usize]).expect("a file");
    let chattr = |flag| Command::new("chattr").args([flag, text(&file)]).output();
    match chattr("+i") {
        Ok(output) if output.status.success() => {}
        Ok(output) => return skipped(WHAT, String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) => return skipped(WHAT, &format!("chattr: {error}")),
    }
    let daemon = Daemon::start();
    let said = daemon.run(&["pool", "create", text(&file), "--type", "file"]);
    let check = chimaera(&["pool", "check", "--repair", text(&file)]);
    assert!(chattr("-i").is_ok_and(|output| output.status.success()));
    for refused in [said, check] {
        let said = refused.failure(exit::NOT_PERMITTED);
        assert!(said.contains("lsattr"), "{said}");
    }
}

#[test]
fn a_device_refuses_a_finer_alignment_and_a_larger_size_than_it_has() {
    let options = ["--sector-size", "4096"];
    let device = match LoopDevice::attach_with(MIB, &options) {
        Ok(device) => device,
        Err(reason) => return skipped("a device with blocks of 4096 bytes", &reason),
    };
    let daemon = Daemon::start();
    let runtime = daemon.connect();
    let name = text(device.path());
    let pool = client(&runtime, 0);
    assert_not_created(
        &pool,
        name,
        &CreateOptions::file().alignment(512),
        Status::Alignment,
        &["alignment is 512", "needs 4096"],
    );
    assert_not_created(
        &pool,
        name,
        &CreateOptions::file().size(2 * MIB),
        Status::InvalidArgument,
        &["2097152", "has 1048576"],
    );
    pool.create(PoolQuery::Dynamic, name, &CreateOptions::file())
        .expect("the device itself is all right");
    assert_not_created(
        &client(&Daemon::start().connect(), 0),
        name,
        &CreateOptions::file(),
        Status::Busy,
        &["is in use"],
    );
}

#[test]
fn programs_that_create_one_pool_at_once_leave_it_its_file() {
    let daemon = Daemon::start();
    let folder = disk_folder();
    for round in 0..10 {
        let path = folder.path().join(format!("pool{round}"));
        let said = thread::scope(|scope| {
            let create = || daemon.create_file_pool(&path, "4MiB");
            let programs: Vec<_> = (0..4).map(|_| scope.spawn(create)).collect();
            let ended = programs
                .into_iter()
                .map(|program| program.join().expect("it ends"));
            ended.collect::<Vec<_>>()
        });
        assert!(said.iter().any(|said| said.code == Some(0)), "{said:?}");
        assert!(path.exists(), "the pool has lost its file: {said:?}");
        let _ = daemon.create_file_pool(&path, "4MiB").success();
    }
}
