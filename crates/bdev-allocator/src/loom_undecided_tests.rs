//! Every interleaving of lists of blocks that are refused, or that meet other frees, with what other threads do
//! meanwhile; and for each step that [`super::undecided`] depends on, tests that see the model fail when the step is
//! left out.
use std::sync::Arc;

use chimaera_bdev_proto::BlockType::{Kib4, Kib64};
use loom::thread;

use super::*;
use crate::loom_tests::{allocate, explore};
use crate::sync::Weakness;

/// A pool of a megabyte with two blocks.
fn with_two_blocks() -> (Arc<Allocator<()>>, [Block; 2]) {
    let allocator = Arc::new(Allocator::<()>::new(MEGABYTE, Threads::Many).expect("memory"));
    let blocks = [(); 2].map(|()| allocate(&allocator, Kib64).expect("room"));
    (allocator, blocks)
}

/// Frees a list on another thread, and gives where it was refused and why.
fn free_elsewhere(
    allocator: &Arc<Allocator<()>>,
    list: &[Block],
) -> thread::JoinHandle<Result<(), FreeError>> {
    let (allocator, list) = (Arc::clone(allocator), list.to_vec());
    thread::spawn(move || allocator.free(&list, ()).map_err(|(error, ())| error))
}

/// Has another thread free the block and another one twice, which is refused.
fn refused_elsewhere(
    allocator: &Arc<Allocator<()>>,
    [block, other]: [Block; 2],
) -> thread::JoinHandle<()> {
    let allocator = Arc::clone(allocator);
    thread::spawn(move || {
        // Not `free`, which looks at all blocks first: with that look loom would not see what conflicts.
        let refused = allocator.make_all_dead(&[block, other, other]);
        let status = Status::DoubleFree;
        assert_eq!(
            refused,
            Err(FreeError {
                position: 2,
                status
            })
        );
    })
}

/// A list is refused while another thread does I/O on a block of it.
fn io_against_refused_list() {
    let (allocator, blocks) = with_two_blocks();
    let refused = refused_elsewhere(&allocator, blocks);
    let pin = allocator.pin(blocks[0]).expect("it stays allocated");
    allocator.unpin(pin);
    refused.join().expect("no panic");
}

/// A list is refused while another thread looks what is allocated.
fn look_against_refused_list() {
    let (allocator, blocks) = with_two_blocks();
    let refused = refused_elsewhere(&allocator, blocks);
    let state = allocator.state(0, false);
    assert!(state == MegabyteState::Split, "it stays allocated");
    refused.join().expect("no panic");
}

/// The same for a list of what is allocated.
fn listing_against_refused_list() {
    let (allocator, blocks) = with_two_blocks();
    let refused = refused_elsewhere(&allocator, blocks);
    assert_eq!(allocator.list(0).len(), 2, "it stays allocated");
    refused.join().expect("no panic");
}

/// A block is freed, alone or in a list, while another thread's list that names it is refused.
fn free_against_refused_list<const LEN: usize>() {
    let (allocator, blocks) = with_two_blocks();
    let mine = [blocks[0], allocate(&allocator, Kib4).expect("room")];
    let other = Arc::clone(&allocator);
    let refused = thread::spawn(move || {
        let [block, twice] = blocks;
        assert!(other.make_all_dead(&[block, twice, twice]).is_err());
    });
    assert!(allocator.free(&mine[..LEN], ()).is_ok(), "it was allocated");
    refused.join().expect("no panic");
    assert!(allocator.pin(blocks[0]).is_err());
    assert!(allocator.pin(blocks[1]).is_ok(), "it stays allocated");
}

/// Two lists have their blocks in common, in the opposite order.
fn list_against_list() {
    let (allocator, [block, other]) = with_two_blocks();
    let freeing = free_elsewhere(&allocator, &[block, other]);
    let mine = allocator.free(&[other, block], ());
    let freed = [mine.is_ok(), freeing.join().expect("no panic").is_ok()];
    assert!(freed[0] != freed[1], "both or none: {freed:?}");
    assert_eq!(allocator.remaining_bytes(), MEGABYTE);
}

/// A block of a list is freed alone meanwhile: if the list is refused for that, its other block was never dead.
fn list_against_free() {
    let (allocator, [block, other]) = with_two_blocks();
    let freeing = free_elsewhere(&allocator, &[block, other]);
    let alone = allocator.free(&[other], ());
    let before = allocator.pin(block).map(|pin| allocator.unpin(pin));
    let list = freeing.join().expect("no panic");
    assert!(alone.is_ok() != list.is_ok(), "both or none");
    let after = allocator.pin(block).map(|pin| allocator.unpin(pin));
    assert_eq!(after.is_ok(), list.is_err());
    assert!(before.is_ok() || after.is_err(), "it stays allocated");
}

#[test]
fn loom_a_refused_list_hides_no_block_from_io() {
    explore(3, None, io_against_refused_list);
}

#[test]
fn loom_a_refused_list_hides_no_block_from_a_look() {
    explore(3, None, look_against_refused_list);
}

#[test]
fn loom_a_refused_list_hides_no_block_from_a_listing() {
    explore(3, None, listing_against_refused_list);
}

#[test]
fn loom_a_refused_list_hides_no_block_from_a_free() {
    explore(3, None, free_against_refused_list::<1>);
}

#[test]
fn loom_a_refused_list_hides_no_block_from_a_list() {
    explore(3, None, free_against_refused_list::<2>);
}

#[test]
fn loom_of_two_lists_one_is_freed() {
    explore(3, None, list_against_list);
}

#[test]
fn loom_a_block_of_a_list_is_freed_once() {
    explore(3, None, list_against_free);
}

#[test]
#[should_panic(expected = "it stays allocated")]
fn loom_fails_if_io_is_refused_at_first_sight() {
    explore(
        3,
        Some(Weakness::RefusedAtFirstSight),
        io_against_refused_list,
    );
}

#[test]
#[should_panic(expected = "it stays allocated")]
fn loom_fails_if_a_look_trusts_its_first_sight() {
    explore(
        3,
        Some(Weakness::RefusedAtFirstSight),
        look_against_refused_list,
    );
}

#[test]
#[should_panic(expected = "it was allocated")]
fn loom_fails_if_a_free_is_refused_at_first_sight() {
    explore(
        3,
        Some(Weakness::RefusedAtFirstSight),
        free_against_refused_list::<1>,
    );
}

#[test]
#[should_panic(expected = "it was allocated")]
fn loom_fails_if_a_list_is_refused_at_first_sight() {
    explore(
        3,
        Some(Weakness::RefusedAtFirstSight),
        free_against_refused_list::<2>,
    );
}

#[test]
#[should_panic(expected = "both or none")]
fn loom_fails_if_lists_are_decided_together() {
    explore(3, Some(Weakness::ListsDecidedTogether), list_against_list);
}
