//! How long opening a large pool takes, and of what. Prints, and asserts nothing: run it in release mode
//! with `--ignored --nocapture measure_opening`.
#![expect(clippy::print_stdout, reason = "a measurement is there to be read")]

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use chimaera_bdev_format::block_map::{MegabyteChange, MegabyteMap};
use chimaera_bdev_format::image::{FileDisk, pool_file};
use chimaera_bdev_format::{Birth, Disk, Geometry, Identity, Metadata, OpenMode, Page, PoolOwner};
use chimaera_bdev_proto::{IoEngine, PerfMetrics};
use chimaera_proto::PoolId;
use chimaera_testing::disk_folder;

use crate::pool::allocator::allocator_of;

const TIBIBYTE: u64 = 1 << 40;
const BLOCKS: u32 = 1_000_000;

#[test]
#[ignore = "a measurement"]
fn measure_opening() {
    let folder = disk_folder();
    let path = folder.path().join("pool");
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    let file = options
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .expect("a file");
    file.set_len(TIBIBYTE).expect("it is sparse");
    let disk = FileDisk::new(pool_file(file).expect("memory"));
    let geometry = Geometry::new(TIBIBYTE / 4096).expect("room");
    fill(&disk, &geometry);
    for _ in 0..5 {
        time("reading the table", || {
            let mut pages = Page::zeroes(256);
            for chunk in 0..BLOCKS.div_ceil(101 * 256) {
                disk.read(16_500 + u64::from(chunk) * 256, &mut pages)
                    .expect("reads");
            }
        });
        time("opening without an allocator", || {
            let mut count = 0;
            let opened = chimaera_bdev_format::open(
                disk.clone(),
                OpenMode::ReadWrite { history: 1 },
                &mut |_, _| count += 1,
                &mut |_, _| {},
            );
            assert!(opened.is_ok() && count == BLOCKS);
        });
        time("opening", || {
            let allocator = allocator_of(TIBIBYTE, 1, true).expect("address space");
            for units in geometry.reserved() {
                allocator.withhold(units);
            }
            let mut restoring = allocator.restoring();
            let mut restore = |megabyte: u32, map| {
                assert!(restoring.take_over(megabyte as usize, map));
            };
            let opened = chimaera_bdev_format::open(
                disk.clone(),
                OpenMode::ReadWrite { history: 1 },
                &mut restore,
                &mut |_, _| {},
            );
            assert!(opened.is_ok());
        });
    }
}

/// Makes a pool on the disk whose table has many megabytes, and whose journal has one.
fn fill(disk: &FileDisk, geometry: &Geometry) {
    let identity = Identity {
        pool: PoolId::new(8000, 0),
        name: "pool".to_owned(),
        owner: PoolOwner::default(),
        alignment: 4096,
        io_depth: 32,
        io_engine: IoEngine::Auto,
        metrics: PerfMetrics::default(),
        scrubs: false,
    };
    let first = geometry.reserved_pages().div_ceil(256) as u32;
    let metadata = Metadata::format(
        disk.clone(),
        identity,
        geometry.clone(),
        Birth::default(),
        false,
    );
    let mut metadata = metadata.expect("formats");
    let changes: Vec<_> = (first..first + BLOCKS)
        .map(|megabyte| MegabyteChange {
            megabyte,
            map: MegabyteMap::WHOLE,
            allocated: Vec::new(),
        })
        .collect();
    for changes in changes.chunks(1 << 16) {
        metadata.commit(changes).expect("commits");
    }
    metadata.checkpoint().expect("ends in order");
    metadata.commit(&changes[..1]).expect("commits");
    drop(metadata);
}

fn time(what: &str, run: impl FnOnce()) {
    let begin = Instant::now();
    run();
    println!("{what}: {:.1} ms", begin.elapsed().as_secs_f64() * 1e3);
}
