//! What can only be read, or not be written in whole, is refused before anything is written, with advice that works.

use std::fs;
use std::path::Path;
use std::process::Command;

use chimaera_bdev_client::{Client, CreateOptions, PoolId, PoolQuery};
use chimaera_tests::exit::{IN_THE_WAY, NO_SPACE, NOT_PERMITTED};
use chimaera_tests::{
    Daemon, LoopDevice, MIB, chimaera, disk_folder, file_bytes, finish, program, skipped, text,
};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// Limits the size of files that the daemon may write.
fn limit_files(daemon: &Daemon, bytes: u64) {
    let limit = Rlimit {
        current: Some(bytes),
        maximum: None,
    };
    let process = Pid::from_raw(daemon.process_id() as i32);
    prlimit(process, Resource::Fsize, limit).expect("the daemon is this user's");
}

#[test]
fn a_pool_beyond_the_limit_on_files_is_refused_and_one_below_it_is_never_met_by_it() {
    let daemon = Daemon::start();
    let folder = disk_folder();
    let path = |name: &str| folder.path().join(name);
    let made = path("made");
    let _ = daemon.create_file_pool(&made, "8MiB").success();
    let _ = daemon.run(&["pool", "destroy", text(&made)]).success();
    let blank = path("blank");
    fs::write(&blank, vec![0; 5000]).expect("a file");
    let held = fs::read(&made).expect("the pool");

    limit_files(&daemon, 4 * MIB);
    let refuse = |file: &Path, size: &str| {
        let said = daemon.create_file_pool(file, size).failure(NO_SPACE);
        for words in [
            "ulimit -f",
            "the first 4194304 bytes",
            "give a smaller size",
        ] {
            assert!(said.contains(words), "{said}");
        }
    };
    refuse(&made, "0");
    refuse(&made, "8MiB");
    refuse(&made, "12MiB");
    refuse(&blank, "8MiB");
    refuse(&path("new"), "8MiB");
    assert!(
        fs::read(&made).expect("the pool") == held,
        "it is as it was"
    );
    assert_eq!(fs::read(&blank).expect("the file"), [0; 5000]);
    assert!(!path("new").exists());
    let create = ["pool", "create", text(&made), "--type", "file"];
    let _ = daemon
        .run(&[&create[..], &["--read-only"]].concat())
        .success();

    let pool = Client::new(&daemon.connect(), PoolId::NULL);
    let options = CreateOptions::file().size(file_bytes(1));
    pool.create(PoolQuery::Dynamic, text(&blank), &options)
        .expect("it is smaller");
    let block = pool.allocate_blocks(PoolQuery::Local, MIB).expect("room")[0];
    let written = pool.write_bytes(PoolQuery::Local, &block, &[7; 4096]);
    assert_eq!(written.expect("written"), 4096);
    pool.flush(PoolQuery::Local).expect("flushed");
}

#[test]
fn a_repair_beyond_the_limit_on_files_is_refused_before_it_writes() {
    let daemon = Daemon::start();
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let _ = daemon.create_file_pool(&path, "8MiB").success();
    drop(daemon);
    let held = fs::read(&path).expect("the pool");
    let mut command = Command::new("sh");
    let line = "ulimit -f 1024 && exec \"$0\" pool check --repair \"$1\"";
    command.args(["-c", line]);
    command.arg(program("chimaera")).arg(&path);
    let said = finish(command).failure(NO_SPACE);
    assert!(said.contains("ulimit -f"), "{said}");
    assert!(
        fs::read(&path).expect("the pool") == held,
        "it is as it was"
    );
}

#[test]
fn a_pool_on_a_device_that_can_only_be_read_is_not_changed_and_can_be_opened_by_its_name() {
    let device = match LoopDevice::attach(8 * MIB) {
        Ok(device) => device,
        Err(reason) => return skipped("a pool on a read-only device", &reason),
    };
    let daemon = Daemon::start();
    let create = |name: &str, more: &[&str]| {
        daemon.run(&[&["pool", "create", name, "--type", "file"], more].concat())
    };
    let destroy = |name: &str| daemon.run(&["pool", "destroy", name]).success();
    let name = device.name();
    let _ = create(name, &[]).success();
    let _ = destroy(name);
    let folder = disk_folder();
    let other = folder.path().join("pool");
    let _ = chimaera(&["pool", "rename", name, "--name", text(&other)]).success();
    let device = device.attach_again(&["--read-only"]);
    let device = device.expect("as the one before");
    let name = device.name();
    let held = fs::read(name).expect("the device");

    for command in [
        &["pool", "rename", name][..],
        &["pool", "rename", "--copy", name],
        &["pool", "check", "--repair", name],
        &["pool", "upgrade", name],
    ] {
        let said = chimaera(command).failure(NOT_PERMITTED);
        for words in [
            "can only be read",
            "nothing was written",
            "blockdev --setrw",
        ] {
            assert!(said.contains(words), "{said}");
        }
    }
    let _ = chimaera(&["pool", "check", name]).success();

    let said = create(name, &["--read-only"]).failure(IN_THE_WAY);
    let link = format!("ln -s {name} {}", text(&other));
    assert!(said.contains(&link), "{said}");
    let mut linked = Command::new("sh");
    linked.args(["-c", &link]);
    let _ = finish(linked).success();
    let opened = create(text(&other), &["--read-only"]).success();
    assert!(opened.starts_with("opened what was there"), "{opened}");
    let _ = destroy(text(&other));
    assert!(
        fs::read(name).expect("the device") == held,
        "it is as it was"
    );
}
