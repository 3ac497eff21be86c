//! Every interleaving of a commit with what workers do meanwhile; and for each step that [`super::durability`]
//! depends on, a test that sees the model fail when the step is left out.
use std::sync::Arc;

use chimaera_bdev_proto::BlockType::Kib4;
use chimaera_bdev_proto::{AllocationPlan, OwnerTag};
use loom::thread;

use super::*;
use crate::loom_tests::{allocate, explore};
use crate::sync::Weakness;
use crate::test_support::limits;

/// A pool of a megabyte with one block, which is committed.
fn with_committed_block() -> (Arc<Allocator<()>>, Block) {
    let allocator = Allocator::<()>::persistent(MEGABYTE, Threads::Many).expect("memory");
    let block = allocate(&allocator, Kib4).expect("room");
    commit(&allocator);
    (Arc::new(allocator), block)
}

/// Commits, and gives the blocks that the device has then, if anything has changed.
fn commit(allocator: &Allocator<()>) -> Option<MegabyteMap> {
    let changes = allocator.collect_changes(0, limits(1)).changes;
    allocator.settle(&changes);
    changes.first().map(|change| change.map)
}

/// A block is freed while a commit runs: after the next commit the device knows, and the space is free.
fn commit_against_free() {
    let (allocator, block) = with_committed_block();
    let freer = Arc::clone(&allocator);
    let thread = thread::spawn(move || assert!(freer.free(&[block], ()).is_ok()));
    let first = commit(&allocator);
    thread.join().expect("no panic");
    let last = commit(&allocator).or(first);
    assert_eq!(last, Some(MegabyteMap::EMPTY), "the device was not told");
    assert!(!allocator.has_deferred(), "space is lost");
    assert_eq!(allocator.remaining_bytes(), MEGABYTE);
    assert!(
        allocator.state(0, false) == MegabyteState::Free,
        "space is lost"
    );
}

/// A block is freed while a commit of another change in its megabyte runs.
fn commit_of_another_change_against_free() {
    let (allocator, block) = with_committed_block();
    let other = allocate(&allocator, Kib4).expect("room");
    let freer = Arc::clone(&allocator);
    let thread = thread::spawn(move || assert!(freer.free(&[block], ()).is_ok()));
    let first = commit(&allocator);
    thread.join().expect("no panic");
    let last = commit(&allocator).or(first).expect("something has changed");
    assert_eq!(last.blocks().count(), 1, "the device was not told");
    assert!(!allocator.has_deferred(), "space is lost");
    assert!(allocator.free(&[other], ()).is_ok());
}

/// A block is allocated while a commit runs: after the next commit the device knows.
fn commit_against_allocation() {
    let (allocator, _) = with_committed_block();
    let other = Arc::clone(&allocator);
    let thread = thread::spawn(move || allocate(&other, Kib4).expect("room"));
    let first = commit(&allocator);
    thread.join().expect("no panic");
    let last = commit(&allocator).or(first).expect("something has changed");
    assert_eq!(last.blocks().count(), 2, "the device was not told");
}

/// A list is refused, because it names a block twice, while a commit of another change in its megabyte
/// runs: no commit tells the device that the block is free.
fn commit_against_refused_list() {
    let (allocator, block) = with_committed_block();
    let other = allocate(&allocator, Kib4).expect("room");
    let freer = Arc::clone(&allocator);
    let thread = thread::spawn(move || {
        // Not `free`, which looks at all blocks first: with that look loom would not see what conflicts.
        assert!(freer.make_all_dead(&[block, block]).is_err());
    });
    let map = commit(&allocator).expect("something has changed");
    thread.join().expect("no panic");
    assert_eq!(map.blocks().count(), 2, "a refused free was committed");
    assert!(allocator.free(&[block, other], ()).is_ok());
}

/// A thread that has noted a change finds the note, whatever other threads do whose megabytes are in the same word.
fn note_against_note() {
    let index = Arc::new(Index::empty(128).expect("memory"));
    let other = Arc::clone(&index);
    let thread = thread::spawn(move || other.note(64));
    index.note(65);
    assert!(index.find(1).is_some(), "a note was overlooked");
    thread.join().expect("no panic");
}

/// A search that clears the bit above a word meanwhile hides no note in the word from the next search.
fn note_against_search() {
    let index = Arc::new(Index::empty(128).expect("memory"));
    index.note(64);
    index.remove(64);
    let other = Arc::clone(&index);
    let thread = thread::spawn(move || other.note(65));
    let _ = index.find(0);
    thread.join().expect("no panic");
    assert!(index.find(1).is_some(), "a note was overlooked");
}

/// A thread reads how much is free while a commit releases deferred space.
fn remaining_while_space_moves() {
    let (allocator, block) = with_committed_block();
    assert!(allocator.free(&[block], ()).is_ok());
    let committer = Arc::clone(&allocator);
    let thread = thread::spawn(move || commit(&committer));
    assert_eq!(allocator.remaining_bytes(), MEGABYTE, "not exact");
    thread.join().expect("no panic");
    assert_eq!(allocator.remaining_bytes(), MEGABYTE, "not exact");
}

/// A pool of a megabyte whose tags have these bounds.
fn with_bounds(asking: u64, full: u64) -> Arc<Allocator<()>> {
    let bounds = TagBounds { asking, full };
    let allocator = Allocator::persistent_with(MEGABYTE, Threads::Many, bounds);
    Arc::new(allocator.expect("memory"))
}

const TAG: OwnerTag = OwnerTag(7);

/// Allocates a block with a tag, and says whether its thread is to ask for a commit.
fn allocate_tagged(allocator: &Allocator<()>) -> Result<(Block, bool), Status> {
    let mut found = None;
    let plan = AllocationPlan::for_size(4096);
    allocator.allocate(plan, TAG, 0, |block| found = Some(block))?;
    Ok((found.expect("one block"), allocator.wants_commit()))
}

/// Two threads allocate with tags where there is room for one tag.
fn tag_against_tag() {
    let allocator = with_bounds(1, 1);
    let other = Arc::clone(&allocator);
    let thread = thread::spawn(move || allocate_tagged(&other).is_ok());
    let first = allocate_tagged(&allocator).is_ok();
    let second = thread.join().expect("no panic");
    assert!(!(first && second), "more tags than there may be");
    assert!(first || second, "room for a tag is lost");
    assert_eq!(allocator.held_tags(), 1);
}

/// A thread allocates with a tag while a commit runs that another thread has asked for.
fn tag_against_commit() {
    let allocator = with_bounds(1, 8);
    let (_, asks) = allocate_tagged(&allocator).expect("room");
    assert!(asks, "the bound is reached");
    let other = Arc::clone(&allocator);
    let thread = thread::spawn(move || allocate_tagged(&other).expect("room").1);
    commit(&allocator);
    let asks = thread.join().expect("no panic");
    assert!(
        asks || allocator.held_tags() == 0,
        "a tag stays, and nobody asks for a commit"
    );
}

/// A block with a tag is freed while a commit runs, and an I/O keeps its space.
fn commit_against_free_that_waits() {
    let allocator = with_bounds(8, 8);
    let (block, _) = allocate_tagged(&allocator).expect("room");
    let pin = allocator.pin(block).expect("live");
    let freer = Arc::clone(&allocator);
    let thread = thread::spawn(move || assert!(freer.free(&[block], ()).is_ok()));
    for change in allocator.collect_changes(0, limits(1)).changes {
        let tags: Vec<_> = change.allocated.iter().map(|(_, tag)| *tag).collect();
        let found = vec![TAG; change.map.blocks().count()];
        assert_eq!(tags, found, "a live block has lost its tag");
    }
    thread.join().expect("no panic");
    assert_eq!(allocator.held_tags(), 0, "a dead block's tag is held");
    allocator.unpin(pin);
}

#[test]
fn loom_there_are_no_more_tags_than_there_may_be() {
    explore(3, None, tag_against_tag);
}

#[test]
#[should_panic(expected = "more tags than there may be")]
fn loom_fails_if_a_tag_is_counted_late() {
    explore(3, Some(Weakness::TagCountedLate), tag_against_tag);
}

#[test]
fn loom_a_commit_that_was_asked_for_takes_the_tags_of_all_who_did_not_ask() {
    explore(3, None, tag_against_commit);
}

#[test]
#[should_panic(expected = "a tag stays, and nobody asks")]
fn loom_fails_if_the_ask_is_taken_back_last() {
    explore(3, Some(Weakness::AskTakenBackLast), tag_against_commit);
}

#[test]
fn loom_a_commit_finds_the_tag_of_a_block_that_it_finds_alive() {
    explore(3, None, commit_against_free_that_waits);
}

#[test]
#[should_panic(expected = "a live block has lost its tag")]
fn loom_fails_if_a_tag_is_forgotten_without_the_lock() {
    let weakness = Weakness::TagForgottenUnlocked;
    explore(3, Some(weakness), commit_against_free_that_waits);
}

#[test]
fn loom_a_free_during_a_commit_is_committed() {
    explore(4, None, commit_against_free);
}

#[test]
fn loom_a_free_during_a_commit_of_something_else_is_committed() {
    explore(3, None, commit_of_another_change_against_free);
}

#[test]
fn loom_an_allocation_during_a_commit_is_committed() {
    explore(3, None, commit_against_allocation);
}

#[test]
fn loom_a_free_that_is_refused_is_never_committed() {
    explore(3, None, commit_against_refused_list);
}

#[test]
fn loom_remaining_space_is_exact_while_it_moves() {
    explore(4, None, remaining_while_space_moves);
}

#[test]
#[should_panic(expected = "the device was not told")]
fn loom_fails_if_a_change_is_noted_first() {
    explore(3, Some(Weakness::ChangeNotedFirst), commit_against_free);
}

#[test]
#[should_panic(expected = "the device was not told")]
fn loom_fails_if_the_note_is_taken_back_last() {
    explore(
        3,
        Some(Weakness::NoteTakenLast),
        commit_of_another_change_against_free,
    );
}

#[test]
fn loom_a_note_is_found_while_others_note() {
    explore(4, None, note_against_note);
}

#[test]
fn loom_a_note_is_found_after_a_search() {
    explore(4, None, note_against_search);
}

#[test]
#[should_panic(expected = "a note was overlooked")]
fn loom_fails_if_a_note_is_left_to_others() {
    explore(4, Some(Weakness::NoteLeftToOthers), note_against_note);
}

#[test]
#[should_panic(expected = "a refused free was committed")]
fn loom_fails_if_a_commit_sees_a_list_that_may_be_refused() {
    let weakness = Weakness::UndecidedFreeCommitted;
    explore(3, Some(weakness), commit_against_refused_list);
}

#[test]
#[should_panic(expected = "not exact")]
fn loom_fails_if_space_that_waits_is_counted_late() {
    let weakness = Weakness::DeferredCountedLate;
    explore(3, Some(weakness), remaining_while_space_moves);
}
