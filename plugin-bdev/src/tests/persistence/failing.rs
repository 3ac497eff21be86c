//! A device that fails under the metadata: every flush that waits fails, and reading goes on. The pool is marked, as
//! far as the device still works, and is opened for writing only after somebody has looked.

use chimaera_bdev_allocator::MAX_HELD_TAGS;
use chimaera_bdev_format::image::CheckMode;
use chimaera_bdev_proto::{
    Block, CreateParams, MEGABYTE, Method, OwnerTag, UNIT_BYTES, allocate_arguments,
};
use chimaera_chimod::ModuleError;
use chimaera_proto::Status;
use chimaera_testing::{SystemCallFilter, Watchdog};

use super::{Store, Written, on_every_store};
use crate::testing::{TestPool, file_bytes, file_params, one_block_bytes};

/// The system calls by which metadata is written, and nothing else is.
const WRITES: [libc::c_long; 3] = [libc::SYS_pwrite64, libc::SYS_pwritev, libc::SYS_io_submit];

/// The one by which it is flushed.
const FLUSH: [libc::c_long; 1] = [libc::SYS_fdatasync];

/// Opens the pool on a device to which its keeper cannot write.
fn open_unwritable(store: &Store, errno: i32) -> TestPool {
    store.open_with_failing_keeper(&SystemCallFilter::refusing(&WRITES, errno))
}

#[test]
fn every_flush_that_waits_hears_of_the_failure_and_so_do_later_ones() {
    on_every_store(file_bytes(8), |store| {
        let written = Written::of_all_kinds(&store.open());
        let pool = open_unwritable(store, libc::EIO);
        let lost = pool.allocate(4096).expect("room")[0];
        let tasks: Vec<_> = (0..50)
            .map(|_| pool.submit_to(0, Method::Flush as u16, [0; 3], None).0)
            .collect();
        for task in tasks {
            let failure = pool.wait(task).expect_err("nothing was written");
            assert_eq!(failure.status, Status::IoError);
        }
        for _ in 0..2 {
            let failure = pool.flush().expect_err("nor will it be");
            assert_eq!(failure.status, Status::IoError);
            let error = pool.handle().flush().expect_err("nor will it be");
            for words in [&store.name, "pool check --repair", "created again"] {
                assert!(error.message.contains(words), "{error}");
            }
        }
        let log = pool.recorder().log();
        let told = |(level, text): &(u32, String)| {
            *level == 1 && text.contains("cannot write the pool's metadata")
        };
        assert!(log.iter().any(told), "{log:?}");
        // What needs no metadata goes on.
        for (owned, bytes) in &written.0 {
            let read = pool.read(owned.block, 0, bytes.len()).expect("allocated");
            assert!(&read == bytes);
        }
        pool.write(lost, 0, &[1; 4096]).expect("written");
        assert_eq!(pool.read(lost, 0, 4096).expect("read"), [1; 4096]);
        assert_eq!(pool.list().len(), written.0.len() + 1);
        drop(pool);
        // No mark could be written either.
        written.assert_all_of(&store.open());
    });
}

#[test]
fn the_first_failure_comes_with_its_errno() {
    on_every_store(file_bytes(1), |store| {
        drop(store.open());
        let pool = open_unwritable(store, libc::ENOSPC);
        pool.allocate(4096).expect("room");
        let failure = pool.flush().expect_err("nothing was written");
        assert_eq!(i32::from(failure.errno), libc::ENOSPC);
    });
}

#[test]
fn an_allocation_that_waits_for_a_commit_hears_of_its_failure() {
    on_every_store(one_block_bytes(), |store| {
        let mut written = Written::default();
        written.add(&store.open(), 4096);
        let pool = open_unwritable(store, libc::EIO);
        let block = written.0[0].0.block;
        pool.free(&[block]).expect("allocated");
        for _ in 0..3 {
            assert_eq!(pool.allocate(4096), Err(Status::IoError));
        }
        drop(pool);
        // The free was never durable.
        written.assert_all_of(&store.open());
    });
}

#[test]
fn a_pool_whose_device_failed_is_opened_for_writing_only_after_a_repair_has_looked_at_it() {
    on_every_store(file_bytes(8), |store| {
        let written = Written::of_all_kinds(&store.open());
        let filter = SystemCallFilter::refusing(&FLUSH, libc::EIO);
        let pool = store.open_with_failing_keeper(&filter);
        pool.allocate(4096).expect("room");
        pool.flush().expect_err("nobody knows what is durable");
        drop(pool);
        let words = [
            "its device failed when it was open last",
            "metadata: Input/output error",
            "read_only",
            "pool check --repair",
        ];
        store.assert_refused(&file_params(0), Status::CorruptedMetadata, &words);
        let read_only = CreateParams {
            read_only: true,
            ..file_params(0)
        };
        let pool = store.open_with(&read_only).expect("for reading");
        for (owned, bytes) in &written.0 {
            let read = pool.read(owned.block, 0, bytes.len()).expect("allocated");
            assert!(&read == bytes);
        }
        drop(pool);
        let found = store.check(CheckMode::Look).expect("a pool");
        assert!(!found.is_sound() && found.lost.is_empty(), "{found:?}");
        assert!(
            found
                .mark
                .is_some_and(|mark| mark.text.contains("Input/output error"))
        );
        store.assert_refused(&file_params(0), Status::CorruptedMetadata, &words);
        store.repair();
        // The block of the commit that failed may be there or not.
        let pool = store.open();
        assert_eq!(pool.recorder().log(), []);
        let listed = pool.list();
        for (owned, bytes) in &written.0 {
            assert!(listed.contains(owned));
            let read = pool.read(owned.block, 0, bytes.len()).expect("allocated");
            assert!(&read == bytes);
        }
        assert!(listed.len() <= written.0.len() + 1, "{listed:?}");
        pool.flush().expect("it works again");
    });
}

#[test]
fn a_device_that_fails_as_the_pool_is_opened_is_told_and_loses_nothing() {
    on_every_store(file_bytes(8), |store| {
        let written = Written::of_all_kinds(&store.open());
        let told = [
            (&WRITES[..], "cannot write the metadata of"),
            (&FLUSH, "cannot flush"),
        ];
        for (calls, told) in told {
            for (errno, status) in [
                (libc::EIO, Status::IoError),
                (libc::ENOSPC, Status::NoSpace),
            ] {
                SystemCallFilter::refusing(calls, errno).around(|| {
                    let Err(error) = store.open_with(&file_params(0)) else {
                        panic!("it was not written that the pool is open");
                    };
                    assert_eq!(error.failure.status, status, "{error}");
                    let words = format!("{told} {}", store.name);
                    assert!(error.message.contains(&words), "{error}");
                });
                written.assert_all_of(&store.open());
            }
        }
    });
}

#[test]
fn a_device_that_cannot_be_written_is_no_new_pool() {
    on_every_store(file_bytes(1), |store| {
        SystemCallFilter::refusing(&WRITES, libc::EIO).around(|| {
            store.assert_refused(&file_params(0), Status::IoError, &["cannot make a pool on"]);
        });
        let mut written = Written::default();
        written.add(&store.open(), MEGABYTE);
    });
}

#[test]
fn a_page_that_cannot_be_read_is_named_by_its_offset() {
    let size = file_bytes(8);
    let Some(store) = Store::on_device(size) else {
        return;
    };
    let device = store.device.as_ref().expect("a device");
    // Not at the beginning of one of the reads that look at a blank device.
    let bad = 3 * MEGABYTE + 5 * UNIT_BYTES;
    device.lose_from(bad);
    let said = refusal(&store);
    let words = [
        &format!("cannot read {} at offset {bad}: ", store.name),
        "Input/output error",
        "the kernel's log",
        "set overwrite to make a new pool without looking",
    ];
    for word in words {
        assert!(said.message.contains(word), "no {word:?} in {said}");
    }
    assert_eq!(i32::from(said.failure.errno), libc::EIO);

    device.lose_from(0);
    device.lose_from(size);
    drop(store.open());
    // All but the superblocks, and all.
    for bad in [18 * UNIT_BYTES, 0] {
        device.lose_from(bad);
        let said = store.check(CheckMode::Look).expect_err("as bad");
        for said in [refusal(&store), said] {
            let place = format!("cannot read {} at offset ", store.name);
            let at = said.message.strip_prefix(&place);
            let at = at.and_then(|rest| rest.split_once(": "));
            let at: u64 = at.and_then(|(at, _)| at.parse().ok()).expect(&said.message);
            assert!(at >= bad && at.is_multiple_of(UNIT_BYTES), "{said}");
        }
    }
}

fn refusal(store: &Store) -> ModuleError {
    let Err(error) = store.open_with(&file_params(0)) else {
        panic!("{} is opened", store.name);
    };
    error
}

/// Tags that the commit that failed had taken, at most: those of a part of it.
const PART: u64 = (1 << 16) + 256;

/// A pool whose keeper is refused these system calls, with as many owner tags in memory as there can be, and the blocks
/// that have them.
fn full_of_tags(store: &Store, calls: &[libc::c_long]) -> (TestPool, Vec<Block>) {
    drop(store.open());
    let pool = store.open_with_failing_keeper(&SystemCallFilter::refusing(calls, libc::EIO));
    let mut tagged = Vec::new();
    let refused = loop {
        let tag = OwnerTag(tagged.len() as u64 + 1);
        match pool.allocate_for(4096, tag) {
            Ok(blocks) => tagged.extend(blocks),
            Err(status) => break status,
        }
    };
    assert_eq!(refused, Status::IoError);
    let held = MAX_HELD_TAGS..=MAX_HELD_TAGS + PART;
    assert!(held.contains(&(tagged.len() as u64)), "{}", tagged.len());
    (pool, tagged)
}

/// The log tells of the failure once, however many hear of it.
fn assert_told_once(pool: &TestPool) {
    let log = pool.recorder().log();
    let told = |(_, text): &&(u32, String)| text.contains("cannot write the pool's metadata");
    assert_eq!(log.iter().filter(told).count(), 1, "{log:?}");
}

#[test]
fn where_no_commit_takes_owner_tags_allocations_with_tags_hear_of_its_failure_and_others_go_on() {
    let _watchdog = Watchdog::start();
    let store = Store::on_file(3 << 30);
    let (pool, mut tagged) = full_of_tags(&store, &WRITES);
    for size in [4096, 65_536, 262_144] {
        let refused = pool.allocate_for(size, OwnerTag(1));
        assert_eq!(refused, Err(Status::IoError));
        pool.allocate(size).expect("without a tag, as before");
    }
    assert_told_once(&pool);
    // One that is not held any more makes room for one more.
    let last = tagged.pop().expect("many");
    pool.free(&[last]).expect("allocated");
    pool.allocate_for(4096, OwnerTag(1)).expect("room");
    assert_eq!(pool.allocate_for(4096, OwnerTag(1)), Err(Status::IoError));
    drop(pool);
    assert_eq!(store.open().list(), [], "nothing was durable");
}

#[test]
fn all_allocations_that_wait_for_room_for_their_tags_hear_of_the_failure_and_the_pool_is_marked() {
    let _watchdog = Watchdog::start();
    let store = Store::on_file(3 << 30);
    let (pool, _) = full_of_tags(&store, &FLUSH);
    let tasks: Vec<_> = (0..50)
        .map(|tag| {
            let arguments = allocate_arguments(4096, OwnerTag(tag + 1));
            let method = Method::AllocateBlocks as u16;
            pool.submit_to(0, method, arguments, None).0
        })
        .collect();
    for task in tasks {
        let failure = pool.wait(task).expect_err("there is no room");
        assert_eq!(failure.status, Status::IoError);
        assert_eq!(i32::from(failure.errno), libc::EIO);
    }
    pool.flush().expect_err("nothing more is made durable");
    assert_told_once(&pool);
    drop(pool);
    let said = refusal(&store);
    assert_eq!(said.failure.status, Status::CorruptedMetadata, "{said}");
    for words in [
        "its device failed when it was open last",
        "pool check --repair",
    ] {
        assert!(said.message.contains(words), "no {words:?} in {said}");
    }
    store.repair();
    store.open().flush().expect("it works again");
}
