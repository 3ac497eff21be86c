//! What is written is read, however many transfers there are, and each ends once.

use std::fs::OpenOptions;
use std::os::fd::BorrowedFd;

use chimaera_bdev_proto::{CreateParams, MEGABYTE, Method, PerfMetrics};
use chimaera_chimod::Activity;
use chimaera_proto::Status;
use chimaera_testing::disk_folder;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{on_every_backend, on_every_file, with_every_engine};
use crate::testing::{TestBuffer, TestPool, file_bytes, file_params, name_in, ram_params};

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ seed)
        .collect()
}

#[test]
fn what_is_written_is_read() {
    on_every_backend(8 * MEGABYTE, 1, |pool| {
        let mut expected = Vec::new();
        for (seed, size) in [1, 65_536, 262_144, MEGABYTE, MEGABYTE]
            .into_iter()
            .enumerate()
        {
            let block = pool.allocate(size).expect("room")[0];
            let bytes = pattern(seed as u8, block.size as usize);
            assert_eq!(pool.write(block, 0, &bytes), Ok(block.size));
            expected.push((block, bytes));
        }
        for (block, bytes) in &expected {
            assert!(&pool.read(*block, 0, bytes.len()).expect("read") == bytes);
            assert_eq!(pool.read(*block, 1, 511).expect("read"), bytes[1..512]);
        }
        let stats = pool.stats();
        assert_eq!(stats.activity.write_operations, 5);
        assert_eq!(stats.activity.read_operations, 10);
        let bytes: u64 = expected.iter().map(|(block, _)| block.size).sum();
        assert_eq!(stats.activity.write_bytes, bytes);
        assert_eq!(stats.activity.read_bytes, bytes + 5 * 511);
        assert_eq!(stats.activity.errors, 0);
        let unaligned = if stats.direct_io { 5 } else { 0 };
        assert_eq!(stats.activity.unaligned_operations, unaligned);
        pool.handle().flush().expect("flushed");
    });
}

#[test]
fn statistics_tell_what_was_declared() {
    let metrics = PerfMetrics {
        iops: 12.5,
        ..PerfMetrics::default()
    };
    let params = CreateParams {
        perf_metrics: Some(metrics),
        io_depth: Some(3),
        alignment: Some(512),
        ..file_params(MEGABYTE)
    };
    on_every_file(&params, 1, |pool| {
        let stats = pool.stats();
        assert_eq!(stats.metrics, metrics);
        assert_eq!((stats.io_depth, stats.alignment), (3, 512));
    });
    let pool = TestPool::create("memory", &ram_params(MEGABYTE), 1).expect("made");
    assert_eq!(pool.stats().metrics, PerfMetrics::default());
    assert!(!pool.stats().direct_io);
}

#[test]
fn more_requests_than_places_all_complete() {
    for io_depth in [1, 3] {
        let params = CreateParams {
            io_depth: Some(io_depth),
            ..file_params(file_bytes(1))
        };
        on_every_file(&params, 1, |pool| {
            let block = pool.allocate(MEGABYTE).expect("room")[0];
            let mut writes: Vec<_> = (0..64u8)
                .map(|at| {
                    let mut buffer = TestBuffer::of(&pattern(at, 4096), 0);
                    let offset = u64::from(at) * 4096;
                    let task = pool.start(0, Method::Write, block, offset, &mut buffer);
                    (task, buffer)
                })
                .collect();
            for (task, _) in &mut writes {
                assert_eq!(pool.take(*task), None, "queued, not started");
            }
            for (task, _) in &writes {
                assert_eq!(pool.wait(*task).expect("written")[0], 4096);
            }
            for at in 0..64u8 {
                let read = pool.read(block, u64::from(at) * 4096, 4096).expect("read");
                assert_eq!(read, pattern(at, 4096));
            }
            assert_eq!(pool.poll(0), Activity::IDLE);
        });
    }
}

#[test]
fn a_sleeping_worker_is_woken_by_the_end_of_its_transfers() {
    on_every_file(&file_params(file_bytes(1)), 1, |pool| {
        let block = pool.allocate(MEGABYTE).expect("room")[0];
        let mut buffer = TestBuffer::of(&pattern(1, 65_536), 0);
        let task = pool.start(0, Method::Write, block, 0, &mut buffer);
        let activity = pool.poll(0);
        assert!(activity.contains(Activity::PENDING | Activity::PROGRESS));
        let file = pool.handle().wake_fd(0).expect("files can be waited for");
        assert_eq!(pool.handle().wake_fd(1), None, "there is no such worker");
        // SAFETY: the pool keeps the file open as long as it lives.
        let file = unsafe { BorrowedFd::borrow_raw(file) };
        let mut files = [PollFd::new(file, PollFlags::POLLIN)];
        let ready = poll(&mut files, PollTimeout::from(20_000u16)).expect("polled");
        assert_eq!(ready, 1, "the end of a transfer wakes");
        let activity = pool.poll(0);
        assert_eq!(activity, Activity::PROGRESS, "and the next pass ends it");
        pool.take(task).expect("ended").expect("written");
    });
}

#[test]
fn a_file_that_was_truncated_fails_transfers_and_says_so_once() {
    for params in with_every_engine(&file_params(file_bytes(1))) {
        let folder = disk_folder();
        let name = name_in(&folder, "pool");
        let pool = TestPool::create(&name, &params, 1).expect("made");
        let block = pool.allocate(MEGABYTE).expect("room")[0];
        let file = OpenOptions::new().write(true).open(&name).expect("opened");
        file.set_len(block.offset + 10_000).expect("truncated");
        for _ in 0..2 {
            for (offset, len) in [(0, 65_536), (12_288, 4096), (8192, 4096), (10_001, 3)] {
                let failure = pool.read(block, offset, len).expect_err("not there");
                assert_eq!((failure.status, failure.errno), (Status::IoError, 5));
            }
        }
        let log = pool.recorder().log();
        assert!(
            matches!(&log[..], [(1, text)] if text.contains("truncated")),
            "{log:?}"
        );
        pool.write(block, 0, &[1; 4096])
            .expect("what is there still works");
    }
}

#[test]
fn a_pool_with_transfers_under_way_can_be_dropped() {
    for params in with_every_engine(&file_params(file_bytes(1))) {
        let folder = disk_folder();
        let pool = TestPool::create(&name_in(&folder, "pool"), &params, 1).expect("made");
        let block = pool.allocate(MEGABYTE).expect("room")[0];
        let recorder = pool.recorder_handle();
        let mut buffers: Vec<_> = (0..40).map(|_| TestBuffer::new(4096 * 4, 0)).collect();
        let tasks: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| pool.start(0, Method::Read, block, 0, buffer))
            .collect();
        let _ = pool.poll(0);
        drop(pool);
        for task in tasks {
            let outcome = recorder.take(task).expect("every task completes");
            assert_eq!(outcome.expect_err("not done").status, Status::Aborted);
        }
    }
}
