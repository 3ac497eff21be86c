//! A ring when it is full, when the kernel refuses it, and when it is dropped.

use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::{Arc, mpsc};

use chimaera_bdev_format::image::{PoolFile, pool_file};
use chimaera_testing::{disk_folder, skipped};
use nix::sys::eventfd::EventFd;

use super::super::blocking::Blocking;
use super::super::engine::{DeviceCommand, DeviceResult, Engine, Opcode};
use super::super::uring::Uring;
use super::engine::{file_and_wake, results_of, transfer_often};
use crate::testing::TestBuffer;

/// A ring, its file, and its wake-up; or `None`, with a word why.
fn engine(depth: u32) -> Option<(Uring, PoolFile, Arc<EventFd>)> {
    let (file, wake) = file_and_wake();
    file.write_all_at(&[7; 4096], 0).expect("written");
    match Uring::new(
        Arc::clone(&file),
        Arc::clone(&wake),
        depth,
        Blocking::UnlessTold,
    ) {
        Ok(uring) => Some((uring, file, wake)),
        Err(error) => {
            skipped("the engine of io_uring", &error.to_string());
            None
        }
    }
}

/// Reads of one byte each, to places of their own.
fn reads(memory: &mut [u8]) -> Vec<DeviceCommand> {
    let address = memory.as_mut_ptr();
    (0..memory.len())
        .map(|at| DeviceCommand {
            tag: at as u64,
            opcode: Opcode::Read,
            address: address.wrapping_add(at),
            len_bytes: 1,
            offset_in_device: at as u64,
        })
        .collect()
}

fn tags_and_results(results: &[DeviceResult]) -> Vec<(u64, i64)> {
    let mut pairs: Vec<_> = results.iter().map(|end| (end.tag, end.result)).collect();
    pairs.sort_unstable();
    pairs
}

#[test]
fn results_come_out_of_the_ring_round_and_round() {
    let Some((mut uring, file, wake)) = engine(2) else {
        return;
    };
    transfer_often(&mut uring, &file, &wake);
}

#[test]
fn no_more_than_the_depth_is_in_flight() {
    // The kernel makes the ring larger than that.
    let Some((mut uring, _file, wake)) = engine(3) else {
        return;
    };
    let mut memory = [0; 8];
    let batch = reads(&mut memory);
    // SAFETY: the memory outlives the ring, and is not touched before the results are taken.
    let (all, more) = unsafe { (uring.submit(&batch), uring.submit(&batch[3..])) };
    assert_eq!(all.expect("submitted"), 3);
    let error = more.expect_err("full");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    let ended = results_of(&mut uring, &wake, 3);
    assert_eq!(tags_and_results(&ended), [(0, 1), (1, 1), (2, 1)]);
    // SAFETY: as above.
    let more = unsafe { uring.submit(&batch[3..]) };
    assert_eq!(more.expect("there is room again"), 3);
    results_of(&mut uring, &wake, 3);
    assert_eq!(memory, [7, 7, 7, 7, 7, 7, 0, 0]);
}

#[test]
fn what_the_kernel_has_no_room_for_is_offered_again() {
    let Some((mut uring, _file, wake)) = engine(4) else {
        return;
    };
    let mut memory = [0; 3];
    let batch = reads(&mut memory);
    uring.refusals = [libc::EAGAIN, libc::EBUSY, libc::EINTR].into();
    // SAFETY: the memory outlives the ring, and is not touched before the results are taken.
    let (taken, more) = unsafe { (uring.submit(&batch), uring.submit(&batch)) };
    assert_eq!(taken.expect("kept back"), 3);
    let error = more.expect_err("nothing overtakes");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    // Without a wake-up the worker would sleep here for ever.
    let ended = results_of(&mut uring, &wake, 3);
    assert_eq!(tags_and_results(&ended), [(0, 1), (1, 1), (2, 1)]);
    assert_eq!(memory, [7; 3]);
}

#[test]
fn what_the_kernel_refuses_for_good_fails_and_never_starts() {
    let Some((mut uring, _file, wake)) = engine(4) else {
        return;
    };
    let mut memory = [0; 2];
    let batch = reads(&mut memory);
    uring.refusals = [libc::EAGAIN, libc::EPERM].into();
    // SAFETY: the memory outlives the ring, and is not touched before the results are taken.
    let taken = unsafe { uring.submit(&batch) };
    assert_eq!(taken.expect("kept back"), 2);
    let refused = -i64::from(libc::EPERM);
    let ended = results_of(&mut uring, &wake, 2);
    assert_eq!(tags_and_results(&ended), [(0, refused), (1, refused)]);
    // SAFETY: as above.
    let error = unsafe { uring.submit(&batch) }.expect_err("refused from now on");
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    drop(uring);
    assert_eq!(memory, [0; 2]);
}

#[test]
fn what_is_given_up_never_starts_and_the_ring_goes_on() {
    let Some((mut uring, _file, wake)) = engine(4) else {
        return;
    };
    let mut memory = [0; 4];
    let batch = reads(&mut memory);
    uring.refusals = [libc::EAGAIN].into();
    // SAFETY: the memory outlives the ring, and is not touched before the results are taken.
    let taken = unsafe { uring.submit(&batch[..2]) };
    assert_eq!(taken.expect("kept back"), 2);
    assert_eq!(uring.kept_back(), 2);
    let mut tags = Vec::new();
    uring.give_up(&mut tags);
    assert_eq!((tags, uring.kept_back()), (vec![0, 1], 0));
    // SAFETY: as above.
    let taken = unsafe { uring.submit(&batch[2..]) };
    assert_eq!(taken.expect("submitted"), 2);
    // The other ring wakes the worker too.
    let ended = results_of(&mut uring, &wake, 2);
    assert_eq!(tags_and_results(&ended), [(2, 1), (3, 1)]);
    // What is under way is not given up.
    // SAFETY: as above.
    let taken = unsafe { uring.submit(&batch[3..]) };
    assert_eq!(taken.expect("submitted"), 1);
    let mut tags = Vec::new();
    uring.give_up(&mut tags);
    assert_eq!(tags, []);
    results_of(&mut uring, &wake, 1);
    drop(uring);
    assert_eq!(memory, [0, 0, 7, 7]);
}

/// If the device still wrote after the drop, it would overwrite what the test writes then.
#[test]
fn dropping_waits_for_what_is_under_way_whoever_does_it() {
    const LEN: usize = 16 << 20;
    const PIECE: usize = 256 << 10;
    let folder = disk_folder();
    let path = folder.path().join("file");
    std::fs::write(&path, vec![7; LEN]).expect("written");
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .expect("a disk has direct I/O");
    let file = pool_file(file).expect("memory");
    file.sync_all().expect("flushed");
    for submitter_ends in [true, false] {
        let (_, wake) = file_and_wake();
        let Ok(mut uring) = Uring::new(Arc::clone(&file), wake, 64, Blocking::UnlessTold) else {
            return;
        };
        let mut memory = TestBuffer::new(LEN, 0);
        let batch: Vec<_> = (0..LEN / PIECE)
            .map(|piece| DeviceCommand {
                tag: 0,
                opcode: Opcode::Read,
                address: memory.bytes_mut()[piece * PIECE..].as_mut_ptr(),
                len_bytes: PIECE as u32,
                offset_in_device: (piece * PIECE) as u64,
            })
            .collect();
        let (handed, taken) = mpsc::channel();
        let (dropped, told) = mpsc::channel::<()>();
        let submitter = std::thread::spawn(move || {
            // SAFETY: the memory outlives the ring, which is dropped before it is touched.
            let count = unsafe { uring.submit(&batch) };
            assert_eq!(count.expect("submitted"), batch.len());
            handed.send(uring).expect("awaited");
            if !submitter_ends {
                told.recv().expect("told");
            }
        });
        let uring = taken.recv().expect("handed over");
        drop(uring);
        memory.bytes_mut().fill(9);
        // This takes longer than what might still be under way.
        let mut again = TestBuffer::new(LEN, 0);
        file.read_exact_at(again.bytes_mut(), 0).expect("read");
        assert!(memory.bytes().iter().all(|&byte| byte == 9), "written to");
        let _ = dropped.send(());
        submitter.join().expect("no failure there");
    }
}
