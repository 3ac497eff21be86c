//! Every interleaving of blocks whose space is prepared before their lives begin with I/O and commits; and tests that
//! see the models fail where lives begin first.
use std::sync::Arc;

use chimaera_bdev_proto::{AllocationPlan, OwnerTag};
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use super::*;
use crate::loom_tests::{allocate, explore};
use crate::test_support::limits;
use chimaera_bdev_proto::BlockType::Kib4;

/// A pool of a megabyte, the first block that it gives, and whether that was zeroed, as a word that orders nothing.
fn with_first_block() -> (Arc<Allocator<()>>, Block, Arc<AtomicBool>) {
    let allocator = Allocator::<()>::persistent(MEGABYTE, Threads::Many).expect("memory");
    let block = allocate(&allocator, Kib4).expect("room");
    assert!(allocator.free(&[block], ()).is_ok());
    let _ = allocator.collect_changes(0, limits(1));
    (Arc::new(allocator), block, Arc::default())
}

/// Allocates the block on another thread, which zeroes it before it is born, or after that if it is `late`.
fn prepare_elsewhere(
    allocator: &Arc<Allocator<()>>,
    zeroed: &Arc<AtomicBool>,
    is_late: bool,
) -> thread::JoinHandle<()> {
    let (allocator, zeroed) = (Arc::clone(allocator), Arc::clone(zeroed));
    thread::spawn(move || {
        let plan = AllocationPlan::for_size(Kib4.size());
        let unborn = allocator.reserve(plan, OwnerTag::NONE, 0).expect("room");
        if is_late {
            let _ = allocator.begin_lives(unborn);
            zeroed.store(true, Ordering::Relaxed);
        } else {
            zeroed.store(true, Ordering::Relaxed);
            let _ = allocator.begin_lives(unborn);
        }
    })
}

/// Another client guesses where the block is.
fn io_against_preparation(is_late: bool) {
    let (allocator, block, zeroed) = with_first_block();
    let thread = prepare_elsewhere(&allocator, &zeroed, is_late);
    if let Ok(pin) = allocator.pin(block) {
        let zeroed = zeroed.load(Ordering::Relaxed);
        assert!(zeroed, "I/O sees what was in the block before");
        allocator.unpin(pin);
    }
    thread.join().expect("no panic");
    assert!(allocator.pin(block).is_ok(), "it is live in the end");
}

/// A commit runs meanwhile.
fn commit_against_preparation(is_late: bool) {
    let (allocator, _, zeroed) = with_first_block();
    let thread = prepare_elsewhere(&allocator, &zeroed, is_late);
    for change in allocator.collect_changes(0, limits(1)).changes {
        let zeroed = zeroed.load(Ordering::Relaxed);
        let is_recorded = change.map.blocks().count() > 0;
        assert!(
            !is_recorded || zeroed,
            "a commit records what is not zeroed"
        );
    }
    thread.join().expect("no panic");
}

#[test]
fn loom_io_finds_a_prepared_block_as_it_was_left() {
    explore(3, None, || io_against_preparation(false));
}

#[test]
#[should_panic(expected = "I/O sees what was in the block before")]
fn loom_fails_if_io_may_come_before_the_preparation() {
    explore(3, None, || io_against_preparation(true));
}

#[test]
fn loom_a_commit_records_no_block_before_it_is_prepared() {
    explore(3, None, || commit_against_preparation(false));
}

#[test]
#[should_panic(expected = "a commit records what is not zeroed")]
fn loom_fails_if_a_commit_may_come_before_the_preparation() {
    explore(3, None, || commit_against_preparation(true));
}
