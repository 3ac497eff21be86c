//! Block devices, on a loop device where the system lets the test make one.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use chimaera_proto::Status;
use chimaera_proto::bdev::CreateParams;

use super::with_every_engine;
use crate::testing::{PATIENCE, Pool, disk_folder, file_params, name_in};

const MIB: u64 = 1 << 20;

/// A loop device, detached when dropped.
struct Loop {
    name: String,
    _folder: tempfile::TempDir,
}

impl Loop {
    /// A device of this size, or `None`, with a word why, where there can be none.
    fn attach(size: u64, options: &[&str]) -> Option<Self> {
        let folder = disk_folder();
        let file = PathBuf::from(name_in(&folder, "device"));
        let made = std::fs::File::create(&file).and_then(|made| made.set_len(size));
        made.expect("the build's folder can be written");
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .args(options)
            .arg(&file)
            .output();
        match output {
            Ok(output) if output.status.success() => Some(Self {
                name: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
                _folder: folder,
            }),
            Ok(output) => skip(&String::from_utf8_lossy(&output.stderr)),
            Err(error) => skip(&error.to_string()),
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "whoever runs the tests wants to know what they did not prove"
)]
fn skip(reason: &str) -> Option<Loop> {
    eprintln!("skipped, no loop device here: {}", reason.trim());
    None
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.name]).status();
    }
}

#[track_caller]
fn assert_refused(name: &str, params: &CreateParams, status: Status, text: &str) {
    let Err(error) = Pool::create(name, params, 1) else {
        panic!("{name} was made with {params:?}");
    };
    assert_eq!(error.failure.status, status, "{error}");
    assert!(error.message.contains(text), "{error}");
}

#[test]
fn a_block_device_is_a_pool_of_its_size_and_has_one_at_a_time() {
    let Some(device) = Loop::attach(4 * MIB + 512, &[]) else {
        return;
    };
    let name = &device.name;
    assert_refused(
        name,
        &file_params(8 * MIB),
        Status::InvalidArgument,
        "at most that",
    );
    for params in with_every_engine(&file_params(0)) {
        use_whole_device(name, &params);
    }
}

fn use_whole_device(name: &str, params: &CreateParams) {
    let pool = Pool::create(name, params, 1).expect("made");
    let stats = pool.stats();
    assert_eq!(stats.total_size, 4 * MIB);
    assert!(stats.direct_io);
    pool.check(&file_params(0)).expect("the whole device");
    assert_refused(name, &file_params(0), Status::Busy, "in use");

    let blocks = pool.allocate(4 * MIB).expect("room");
    let bytes: Vec<u8> = (0..MIB).map(|at| (at % 251) as u8).collect();
    for block in &blocks {
        pool.write(*block, 0, &bytes).expect("written");
        pool.write(*block, 777, &[9; 5]).expect("written");
    }
    let mut expected = bytes;
    expected[777..782].fill(9);
    for block in &blocks {
        assert!(pool.read(*block, 0, MIB as usize).expect("read") == expected);
    }
    pool.handle().flush().expect("flushed");
    drop(pool);
    // A process that another test is just starting has a copy of the file for a moment.
    let start = Instant::now();
    while let Err(error) = Pool::create(name, &file_params(MIB), 1) {
        assert_eq!(error.failure.status, Status::Busy, "{error}");
        assert!(start.elapsed() < PATIENCE, "free again: {error}");
        std::thread::yield_now();
    }
}

#[test]
fn a_device_with_large_blocks_needs_a_large_alignment() {
    let Some(device) = Loop::attach(4 * MIB, &["--sector-size", "4096"]) else {
        return;
    };
    let small = CreateParams {
        alignment: 512,
        ..file_params(0)
    };
    assert_refused(&device.name, &small, Status::Alignment, "at least 4096");
    assert_refused(&device.name, &small, Status::Alignment, "is 512");
    Pool::create(&device.name, &file_params(0), 1).expect("made");
}

#[test]
fn a_read_only_device_is_refused() {
    let Some(device) = Loop::attach(MIB, &["--read-only"]) else {
        return;
    };
    assert_refused(
        &device.name,
        &file_params(0),
        Status::PermissionDenied,
        &device.name,
    );
}
