//! AIO whose operations are handed to the kernel by another thread where that may have to wait.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use chimaera_bdev_format::image::{PoolFile, pool_file};
use chimaera_testing::{disk_folder, skipped, tmpfs_folder};
use nix::sys::eventfd::EventFd;

use super::super::aio::Aio;
use super::super::blocking::Blocking;
use super::super::engine::{DeviceCommand, Engine, Opcode};
use super::super::submitter::SubmittingThread;
use super::engine::{file_and_wake, results_of, transfer_often};
use crate::testing::TestBuffer;

const PIECE: usize = 64 << 10;

fn engine(file: &PoolFile, depth: u32, blocking: Blocking) -> (Aio, Arc<EventFd>) {
    let (_, wake) = file_and_wake();
    let submitter = Arc::new(SubmittingThread::start(depth as usize, || {}).expect("a thread"));
    let aio = Aio::new(Arc::clone(file), Arc::clone(&wake), depth).expect("a context");
    (aio.without_blocking(blocking, &submitter), wake)
}

/// A file of this length on a disk, with holes only, and past the page cache.
fn direct_file(len: usize) -> PoolFile {
    let folder = disk_folder();
    let path = folder.path().join("file");
    let made = File::create(&path).and_then(|made| made.set_len(len as u64));
    made.expect("a file");
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true);
    let file = options.custom_flags(libc::O_DIRECT).open(&path);
    pool_file(file.expect("a disk has direct I/O")).expect("memory")
}

/// One command for each piece of the memory.
fn pieces(memory: &mut TestBuffer, opcode: Opcode) -> Vec<DeviceCommand> {
    let pieces = memory.bytes_mut().chunks_mut(PIECE).enumerate();
    pieces
        .map(|(piece, bytes)| DeviceCommand {
            tag: piece as u64,
            opcode,
            address: bytes.as_mut_ptr(),
            len_bytes: PIECE as u32,
            offset_in_device: (piece * PIECE) as u64,
        })
        .collect()
}

fn do_all(aio: &mut Aio, wake: &EventFd, batch: &[DeviceCommand]) {
    // SAFETY: callers keep the memory until the results are there.
    let taken = unsafe { aio.submit(batch) };
    assert_eq!(taken.expect("submitted"), batch.len());
    let results = results_of(aio, wake, batch.len());
    let mut tags: Vec<_> = results.iter().map(|ended| ended.tag).collect();
    tags.sort_unstable();
    assert!(tags.into_iter().eq(0..batch.len() as u64), "each ends once");
    assert!(
        results.iter().all(|ended| ended.result == PIECE as i64),
        "{results:?}"
    );
}

#[test]
fn what_would_wait_is_done_by_another_thread() {
    const LEN: usize = 16 * PIECE;
    let ways = [Blocking::UnlessTold, Blocking::Writes, Blocking::All];
    for blocking in ways {
        let file = direct_file(LEN);
        let (mut aio, wake) = engine(&file, 16, blocking);
        // An ext4 has to find room for what is written to a hole, and would wait for that.
        let mut memory = TestBuffer::new(LEN, 0);
        memory.bytes_mut().fill(3);
        let writes = pieces(&mut memory, Opcode::Write);
        do_all(&mut aio, &wake, &writes);
        let mut memory = TestBuffer::new(LEN, 0);
        let reads = pieces(&mut memory, Opcode::Read);
        do_all(&mut aio, &wake, &reads);
        assert!(memory.bytes_mut().iter().all(|&byte| byte == 3));
    }
}

#[test]
fn results_come_round_and_round_whoever_hands_over_what() {
    for blocking in [Blocking::Writes, Blocking::All] {
        let (file, _) = file_and_wake();
        let (mut aio, wake) = engine(&file, 2, blocking);
        transfer_often(&mut aio, &file, &wake);
    }
}

#[test]
fn a_file_that_does_not_know_how_not_to_wait_is_told_once() {
    let folder = match tmpfs_folder() {
        Ok(folder) => folder,
        Err(reason) => return skipped("a file that cannot be told not to wait", &reason),
    };
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create_new(true);
    let file = options.open(folder.path().join("file")).expect("a file");
    let file = pool_file(file).expect("memory");
    let (mut aio, wake) = engine(&file, 2, Blocking::UnlessTold);
    transfer_often(&mut aio, &file, &wake);
    assert_eq!(aio.blocking(), Some(Blocking::All));
}

#[test]
fn what_the_kernel_refuses_ends_with_its_error() {
    let path = disk_folder();
    let path = path.path().join("file");
    std::fs::write(&path, [7; PIECE]).expect("written");
    let file = pool_file(File::open(&path).expect("a file")).expect("memory");
    for blocking in [Blocking::UnlessTold, Blocking::All] {
        let (mut aio, wake) = engine(&file, 2, blocking);
        let mut memory = TestBuffer::new(PIECE, 0);
        let write = pieces(&mut memory, Opcode::Write);
        // SAFETY: the memory outlives the result.
        let taken = unsafe { aio.submit(&write) };
        assert_eq!(taken.expect("submitted"), 1);
        let results = results_of(&mut aio, &wake, 1);
        assert_eq!(results[0].result, -i64::from(libc::EBADF));
    }
}

/// If anything still wrote after the drop, it would overwrite what the test writes then.
#[test]
fn dropping_waits_for_what_the_other_thread_has() {
    const LEN: usize = 256 * PIECE;
    let file = direct_file(LEN);
    let mut memory = TestBuffer::new(LEN, 0);
    for _ in 0..20 {
        let (mut aio, _wake) = engine(&file, 256, Blocking::All);
        let reads = pieces(&mut memory, Opcode::Read);
        // SAFETY: the memory is not touched before the engine is dropped.
        let taken = unsafe { aio.submit(&reads) };
        assert_eq!(taken.expect("submitted"), reads.len());
        drop(aio);
        memory.bytes_mut().fill(9);
        // This takes longer than what might still be under way.
        let mut bytes = vec![0; PIECE + 4096];
        let start = bytes.as_ptr().align_offset(4096);
        let read = file.read_exact_at(&mut bytes[start..start + PIECE], 0);
        read.expect("read");
        assert!(memory.bytes_mut().iter().all(|&byte| byte == 9));
    }
}
