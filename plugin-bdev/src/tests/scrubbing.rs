//! A pool that scrubs hands out zeroes, whatever was in the block before; one that does not shows that these tests look
//! where there was something.

use std::sync::Arc;

use chimaera_bdev_proto::{
    Block, BlockType, CreateParams, MEGABYTE, Method, OwnerTag, ScrubPolicy, UNIT_BYTES,
    allocate_arguments,
};
use chimaera_proto::{Permissions, Status};
use chimaera_testing::{SystemCallFilter, disk_folder};

use super::{assert_refused, on_every_file};
use crate::testing::{
    POOL, ROOT, Recorder, TestBuffer, TestPool, USER, file_bytes, file_params, loop_device,
    name_in, ram_params,
};

const SECRET: u8 = 0x5E;

fn scrubbing(params: CreateParams) -> CreateParams {
    CreateParams {
        scrub: Some(ScrubPolicy::Allocate),
        ..params
    }
}

/// A byte that the pool's blocks of this type hold when all of them were written and freed, and are allocated again; a
/// panic if they hold several.
fn found_again(pool: &TestPool, block_type: BlockType) -> u8 {
    let size = block_type.size();
    let mut blocks = Vec::new();
    while let Ok(more) = pool.allocate(size) {
        blocks.extend(more);
    }
    assert!(!blocks.is_empty());
    for &block in &blocks {
        let secret = vec![SECRET; size as usize];
        pool.write(block, 0, &secret).expect("allocated");
    }
    blocks.sort_by_key(|block| block.offset);
    pool.free(&blocks).expect("allocated");
    let mut again: Vec<Block> = Vec::new();
    while let Ok(more) = pool.allocate(size) {
        again.extend(more);
    }
    again.sort_by_key(|block| block.offset);
    assert_eq!(again, blocks, "the same places");
    let found = byte_of(pool, &again);
    pool.free(&again).expect("allocated");
    found
}

/// The byte that all of the blocks hold.
fn byte_of(pool: &TestPool, blocks: &[Block]) -> u8 {
    let bytes = blocks
        .iter()
        .flat_map(|&block| pool.read(block, 0, block.size as usize).expect("allocated"));
    let mut bytes: Vec<u8> = bytes.collect();
    bytes.dedup();
    let [byte] = bytes[..] else {
        panic!("different bytes: {bytes:?}");
    };
    byte
}

#[test]
fn blocks_of_every_size_hold_zeroes_in_every_kind_of_pool() {
    for (scrub, expected) in [(ScrubPolicy::None, SECRET), (ScrubPolicy::Allocate, 0)] {
        let test = |pool: &TestPool| {
            assert_eq!(pool.stats().scrub, scrub);
            for block_type in BlockType::ALL {
                assert_eq!(found_again(pool, block_type), expected, "{block_type:?}");
            }
            assert_eq!(pool.stats().allocated_blocks, 0);
        };
        let with = |params| CreateParams {
            scrub: Some(scrub),
            ..params
        };
        let memory = TestPool::create("memory", &with(ram_params(2 * MEGABYTE)), 1);
        test(&memory.expect("a memory pool"));
        on_every_file(&with(file_params(file_bytes(1))), 1, test);
        if let Some(device) = loop_device(file_bytes(1), &[]) {
            let path = device.path().to_str().expect("UTF-8").to_owned();
            test(&TestPool::create(&path, &with(file_params(0)), 1).expect("a device"));
        }
    }
}

#[test]
fn lists_of_blocks_hold_zeroes_and_others_go_on_meanwhile() {
    let test = |pool: &TestPool| {
        let blocks = pool.allocate(6 * MEGABYTE).expect("room");
        for &block in &blocks {
            pool.write(block, 0, &vec![SECRET; MEGABYTE as usize])
                .expect("allocated");
        }
        pool.free(&blocks).expect("allocated");
        for owner in [OwnerTag::NONE, OwnerTag(7)] {
            let again = pool.allocate_for(5 * MEGABYTE, owner).expect("room");
            assert_eq!((again.len(), byte_of(pool, &again)), (5, 0));
            pool.free(&again).expect("allocated");
        }
        assert_eq!(pool.allocate(7 * MEGABYTE), Err(Status::NoSpace));
        let stats = pool.stats();
        assert_eq!(stats.activity.allocations, 16);
        assert_eq!(stats.allocated_blocks, 0);
    };
    let memory = TestPool::create("memory", &scrubbing(ram_params(6 * MEGABYTE)), 2);
    test(&memory.expect("a memory pool"));
    on_every_file(&scrubbing(file_params(file_bytes(6))), 2, test);
}

#[test]
fn what_was_not_written_of_a_block_is_zeroes() {
    let pool = TestPool::create("memory", &scrubbing(ram_params(UNIT_BYTES)), 1).expect("made");
    let [block] = pool.allocate(UNIT_BYTES).expect("room")[..] else {
        panic!("one block");
    };
    pool.write(block, 0, &[SECRET; UNIT_BYTES as usize])
        .expect("allocated");
    pool.free(&[block]).expect("allocated");
    assert_eq!(pool.allocate(UNIT_BYTES), Ok(vec![block]));
    pool.write(block, 100, &[1; 10]).expect("allocated");
    let found = pool.read(block, 0, UNIT_BYTES as usize).expect("allocated");
    let mut expected = vec![0; UNIT_BYTES as usize];
    expected[100..110].fill(1);
    assert_eq!(found, expected);
}

#[test]
fn where_the_file_system_cannot_zero_ranges_zeroes_are_written() {
    for errno in [libc::EOPNOTSUPP, libc::ENOSYS] {
        let filter = SystemCallFilter::refusing(&[libc::SYS_fallocate], errno);
        let (_folder, pool) = pool_whose_keeper_is(filter);
        assert_eq!(found_again(&pool, BlockType::Mib1), 0);
        assert_eq!(found_again(&pool, BlockType::Kib4), 0);
        // A list takes several turns, and what is asked for meanwhile takes turns with it.
        let mut list = TestBuffer::new(1024, 0);
        let large = allocate_arguments(3 * MEGABYTE, OwnerTag::NONE);
        let (large, _) = pool.submit_to(0, Method::AllocateBlocks as u16, large, Some(&mut list));
        let small = allocate_arguments(1, OwnerTag(7));
        let (small, _) = pool.submit_to(0, Method::AllocateBlocks as u16, small, None);
        pool.flush().expect("the device is sound");
        for (task, count) in [(small, 1), (large, 3)] {
            let values = pool.wait(task).expect("there is room");
            assert_eq!(values[0], count);
            for words in values[1..].as_chunks().0.iter().take(count as usize) {
                let block = Block::from_words(*words).expect("the pool's own");
                assert_eq!(byte_of(&pool, &[block]), 0);
            }
        }
        assert_eq!(pool.stats().allocated_blocks, 4);
    }
}

#[test]
fn a_pool_whose_device_failed_zeroes_nothing_any_more() {
    let calls = [libc::SYS_fdatasync, libc::SYS_fsync];
    let (_folder, pool) = pool_whose_keeper_is(SystemCallFilter::refusing(&calls, libc::EIO));
    assert_eq!(pool.allocate(1).map(|blocks| blocks.len()), Ok(1));
    pool.flush().expect_err("nobody knows what is durable");
    assert_eq!(pool.allocate(1), Err(Status::IoError));
}

#[test]
fn blocks_that_cannot_be_zeroed_are_not_handed_out_and_nothing_is_lost() {
    let filter = SystemCallFilter::refusing(&[libc::SYS_fallocate], libc::EIO);
    let (_folder, pool) = pool_whose_keeper_is(filter);
    let remaining = pool.stats().remaining_size;
    for (size, owner) in [
        (1, OwnerTag::NONE),
        (1, OwnerTag(7)),
        (2 * MEGABYTE, OwnerTag(7)),
    ] {
        assert_eq!(pool.allocate_for(size, owner), Err(Status::IoError));
    }
    let stats = pool.stats();
    assert_eq!(stats.remaining_size, remaining);
    assert_eq!((stats.allocated_blocks, stats.activity.errors), (0, 3));
    let told = pool.recorder().log();
    let told: Vec<_> = told
        .iter()
        .filter(|(_, text)| text.contains("zero"))
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    pool.flush().expect("the device is sound otherwise");
}

/// A device that cannot flush has no record of blocks whose zeroes may not be durable: the record comes after that
/// flush.
#[test]
fn no_commit_records_a_block_before_its_zeroes_are_durable() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let open = |params, recorder| TestPool::create_recorded(&name, &params, 1, Arc::new(recorder));
    let params = scrubbing(file_params(file_bytes(3)));
    drop(open(params, Recorder::default()).expect("made"));
    let calls = [libc::SYS_fdatasync, libc::SYS_fsync];
    let refusing = Recorder::refusing(SystemCallFilter::refusing(&calls, libc::EIO));
    let pool = open(params, refusing).expect("opening is refused nothing");
    assert_eq!(pool.allocate(1).map(|blocks| blocks.len()), Ok(1));
    pool.flush().expect_err("nobody knows what is durable");
    drop(pool);
    let read_only = CreateParams {
        read_only: true,
        ..file_params(0)
    };
    let pool = open(read_only, Recorder::default()).expect("for reading");
    assert_eq!(pool.list(), []);
}

/// A pool on a file that scrubs, whose keeper is refused these system calls.
fn pool_whose_keeper_is(filter: SystemCallFilter) -> (tempfile::TempDir, TestPool) {
    let folder = disk_folder();
    let params = scrubbing(file_params(file_bytes(3)));
    let recorder = Arc::new(Recorder::refusing(filter));
    let pool = TestPool::create_recorded(&name_in(&folder, "pool"), &params, 1, recorder);
    (
        folder,
        pool.expect("the threads that make it are refused nothing"),
    )
}

#[test]
fn a_pool_scrubs_once_its_permissions_let_others_in_and_says_so_on_the_device() {
    let permissions = |owner, mode| Permissions {
        owner,
        group: 0,
        mode,
    };
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let file = file_params(file_bytes(1));
    let open = || TestPool::create(&name, &file, 1).expect("a file pool");
    let memory = TestPool::create("memory", &ram_params(MEGABYTE), 1).expect("a memory pool");
    for pool in [memory, open()] {
        for (owner, mode, expected) in [
            (0, 0o400, ScrubPolicy::None),
            (0, 0o711, ScrubPolicy::None),
            (0, 0o640, ScrubPolicy::Allocate),
            (0, 0o600, ScrubPolicy::Allocate),
        ] {
            let set = pool.handle().set_permissions(permissions(owner, mode));
            set.expect("recorded");
            assert_eq!(pool.stats().scrub, expected, "{mode:o}");
        }
        let log = pool.recorder().log();
        let told = log
            .iter()
            .filter(|(_, text)| text.contains("let others in"));
        assert_eq!(told.count(), 1, "{log:?}");
    }
    let pool = open();
    assert_eq!(pool.stats().scrub, ScrubPolicy::Allocate);
    assert_eq!(found_again(&pool, BlockType::Mib1), 0);

    let given = TestPool::create("given", &ram_params(MEGABYTE), 1).expect("a memory pool");
    let set = given.handle().set_permissions(permissions(1000, 0o600));
    set.expect("recorded");
    assert_eq!(given.stats().scrub, ScrubPolicy::Allocate);
}

#[test]
fn the_owner_may_have_a_pool_scrub_and_nobody_may_have_it_cease() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let file = file_params(file_bytes(1));
    for (name, params) in [("memory", ram_params(MEGABYTE)), (&name, file)] {
        let pool = TestPool::create(name, &params, 1).expect("made");
        let ask = |creator, policy| {
            let asked = CreateParams {
                scrub: Some(policy),
                ..params
            };
            pool.ask_again_by(creator, &asked)
                .map_err(|error| error.failure.status)
        };
        assert_eq!(ask(USER, ScrubPolicy::None), Ok(()));
        let refused = ask(USER, ScrubPolicy::Allocate);
        assert_eq!(refused, Err(Status::PermissionDenied));
        assert_eq!(pool.stats().scrub, ScrubPolicy::None);
        assert_eq!(ask(ROOT, ScrubPolicy::Allocate), Ok(()));
        assert_eq!(pool.stats().scrub, ScrubPolicy::Allocate);
        assert_eq!(ask(USER, ScrubPolicy::Allocate), Ok(()));
        let refused = ask(ROOT, ScrubPolicy::None);
        assert_eq!(refused, Err(Status::ParameterMismatch));
        pool.ask_again(&params).expect("it leaves that open");
    }
    let with = |policy| CreateParams {
        scrub: Some(policy),
        ..file
    };
    let refused = "scrub is allocate, asked for none";
    assert_refused(
        &name,
        &with(ScrubPolicy::None),
        Status::ParameterMismatch,
        refused,
    );
    let pool = TestPool::create(&name, &file, 1).expect("it leaves that open");
    assert_eq!(pool.stats().scrub, ScrubPolicy::Allocate);
}

#[test]
fn opening_may_have_a_pool_scrub() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let file = file_params(file_bytes(1));
    for (params, expected) in [
        (file, ScrubPolicy::None),
        (scrubbing(file), ScrubPolicy::Allocate),
        (file, ScrubPolicy::Allocate),
    ] {
        let pool = TestPool::create(&name, &params, 1).expect("opened");
        assert_eq!(pool.stats().scrub, expected);
    }
}

#[test]
fn a_pool_on_a_device_that_is_for_others_scrubs_unless_it_is_asked_not_to() {
    let group = Permissions {
        mode: 0o660,
        ..Permissions::of_owner(0, 0)
    };
    for (permissions, asked, expected) in [
        (group, None, ScrubPolicy::Allocate),
        (group, Some(ScrubPolicy::None), ScrubPolicy::None),
        (Permissions::of_owner(0, 0), None, ScrubPolicy::None),
    ] {
        let Some(device) = loop_device(file_bytes(20), &[]) else {
            return;
        };
        let name = device.path().to_str().expect("UTF-8");
        let params = CreateParams {
            scrub: asked,
            ..file_params(file_bytes(4))
        };
        let made = TestPool::create_with((ROOT, permissions), (POOL, false), name, &params);
        let pool = made.expect("it is blank");
        assert_eq!(pool.stats().scrub, expected, "{asked:?}");
        drop(pool);
        // What it grows by was looked at by nobody.
        for (again, size) in [(asked, file_bytes(12)), (None, 0)] {
            let larger = CreateParams {
                scrub: again,
                trust_owner: true,
                ..file_params(size)
            };
            let pool = TestPool::create(name, &larger, 1).expect("opened");
            assert!(pool.stats().total_size > file_bytes(4));
            let grown = match permissions == group && again.is_none() {
                true => ScrubPolicy::Allocate,
                false => expected,
            };
            assert_eq!(pool.stats().scrub, grown, "{asked:?} {again:?}");
        }
    }
}

#[test]
fn a_pool_that_is_made_over_something_for_others_scrubs() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let params = CreateParams {
        overwrite: true,
        ..file_params(file_bytes(1))
    };
    let make = |permissions, params: &CreateParams| {
        std::fs::write(&name, vec![SECRET; file_bytes(1) as usize]).expect("written");
        let made = TestPool::create_with((ROOT, permissions), (POOL, false), &name, params);
        made.map_err(|error| error.failure.status)
    };
    let alone = Permissions::of_owner(0, 0);
    let pool = make(alone, &params).expect("made");
    assert_eq!(pool.stats().scrub, ScrubPolicy::None);
    let blocks = pool.allocate(MEGABYTE).expect("room");
    let found = pool
        .read(blocks[0], 0, MEGABYTE as usize)
        .expect("allocated");
    assert!(found.contains(&SECRET), "nothing is wiped but metadata");
    drop(pool);

    let group = Permissions {
        mode: 0o660,
        ..alone
    };
    for permissions in [group, Permissions::of_owner(1000, 1000)] {
        let pool = make(permissions, &params).expect("made");
        assert_eq!(pool.stats().scrub, ScrubPolicy::Allocate);
        let blocks = pool.allocate(MEGABYTE).expect("room");
        assert_eq!(byte_of(&pool, &blocks), 0);
        drop(pool);
        let none = CreateParams {
            scrub: Some(ScrubPolicy::None),
            ..params
        };
        let refused = make(permissions, &none).map(|_| ());
        assert_eq!(refused, Err(Status::InvalidArgument));
    }
}
