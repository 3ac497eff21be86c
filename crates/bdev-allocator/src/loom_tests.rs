//! Every interleaving, up to a number of preemptions, of the steps that the allocator's arguments depend on; and
//! for each step a test that sees the model fail when the step is left out.
//!
//! Run with `RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --release -p chimaera-bdev-allocator --lib
//! loom_`.
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use chimaera_bdev_proto::BlockType::{self, Kib4, Kib64, Kib256, Mib1};
use chimaera_bdev_proto::{AllocationPlan, OwnerTag};
use loom::thread;

use super::*;
use crate::sync::{Ordering, Weakness, with_weakness};

/// Storage of a block, with a part for each thread that writes it.
///
/// Its reads and writes are relaxed, so only the allocator can order the accesses.
struct Storage(Vec<AtomicU64>);

impl Storage {
    fn new(parts: usize) -> Arc<Self> {
        Arc::new(Self((0..parts).map(|_| AtomicU64::new(0)).collect()))
    }

    fn write(&self, part: usize) {
        self.0[part].store(1, Ordering::Relaxed);
    }

    fn parts_written(&self) -> Vec<u64> {
        self.0
            .iter()
            .map(|part| part.load(Ordering::Relaxed))
            .collect()
    }
}

/// Notes what the space's next owner finds in the storage. Nothing may be written to it after that.
struct NextLife {
    storage: Arc<Storage>,
    found: Found,
}

type Found = Arc<OnceLock<Vec<u64>>>;

impl FreeCompletion for NextLife {
    fn freed(self) {
        self.found
            .set(self.storage.parts_written())
            .expect("completes once");
    }
}

impl FreeCompletion for () {
    fn freed(self) {}
}

/// Explores a model with at most this many preemptions, which bounds the time.
pub(crate) fn explore(preemptions: usize, weakness: Option<Weakness>, model: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let counting = move || {
        counted.fetch_add(1, Relaxed);
        model();
    };
    with_weakness(weakness, || builder.check(counting));
    let runs = runs.load(Relaxed);
    assert!(runs > 1, "a model with a single schedule shows nothing");
}

pub(crate) fn allocate<C>(
    allocator: &Allocator<C>,
    block_type: BlockType,
) -> Result<Block, Status> {
    let mut found = None;
    let plan = AllocationPlan {
        block_type,
        count: 1,
    };
    allocator.allocate(plan, OwnerTag::NONE, 0, |block| found = Some(block))?;
    Ok(found.expect("one block"))
}

fn assert_both_got_one(results: [Result<Block, Status>; 2]) {
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_ne!(results[0], results[1], "two blocks in one place");
}

/// This many threads do I/O on a block while it is freed.
fn io_against_free<const THREADS: usize>() {
    let allocator = Arc::new(Allocator::new(MEGABYTE, Threads::Many).expect("memory"));
    let block = Block::new(0, Kib256);
    allocator.adopt(block).expect("free");
    let storage = Storage::new(THREADS);
    let threads: [_; THREADS] = std::array::from_fn(|part| {
        let (allocator, storage) = (Arc::clone(&allocator), Arc::clone(&storage));
        thread::spawn(move || {
            if let Ok(pin) = allocator.pin(block) {
                storage.write(part);
                allocator.unpin(pin);
            }
        })
    });
    let found = Found::default();
    let next_life = NextLife {
        storage: Arc::clone(&storage),
        found: Arc::clone(&found),
    };
    assert!(allocator.free(&[block], next_life).is_ok());
    threads
        .into_iter()
        .for_each(|thread| thread.join().expect("no panic"));
    let found = found.get().expect("never freed");
    assert_eq!(
        *found,
        storage.parts_written(),
        "I/O ran into the next life"
    );
    assert_eq!(allocator.remaining_bytes(), MEGABYTE);
}

/// A free has to wait for I/O in both phases, while more I/O comes and goes.
fn free_with_both_phases_busy() {
    let allocator = Arc::new(Allocator::new(MEGABYTE, Threads::Many).expect("memory"));
    let [block, other, busy] = [0, 1, 2].map(|number| Block::new(number * Kib4.size(), Kib4));
    for block in [block, other, busy] {
        allocator.adopt(block).expect("free");
    }
    let storage = Storage::new(2);
    // A free of something else flips the phases, so that the two pins stand in different ones.
    let first = allocator.pin(block).expect("live");
    let next_life = NextLife {
        storage: Storage::new(0),
        found: Found::default(),
    };
    assert!(allocator.free(&[other], next_life).is_ok());
    let second = allocator.pin(busy).expect("live");
    let mut part = 0;
    let threads = [first, second].map(|pin| {
        let (allocator, storage, mine) = (Arc::clone(&allocator), Arc::clone(&storage), part);
        part += 1;
        thread::spawn(move || {
            storage.write(mine);
            allocator.unpin(pin);
        })
    });
    let found = Found::default();
    let next_life = NextLife {
        storage: Arc::clone(&storage),
        found: Arc::clone(&found),
    };
    assert!(allocator.free(&[block], next_life).is_ok());
    let later = allocator.pin(busy).expect("live");
    threads
        .into_iter()
        .for_each(|thread| thread.join().expect("no panic"));
    // I/O that came after the free may be counted in a phase that the free awaits. It holds the free up
    // only until the next I/O: the phases have been exchanged by then.
    let next = allocator.pin(busy).expect("live");
    allocator.unpin(later);
    let found = found.get().expect("never freed");
    assert_eq!(found[0], 1, "I/O ran into the next life");
    allocator.unpin(next);
    assert_eq!(allocator.remaining_bytes(), MEGABYTE - Kib4.size());
}

/// A search finds a stale bit of the index and clears it, while a megabyte enters the index.
fn search_against_insert() {
    let index = Arc::new(Index::empty(128).expect("memory"));
    // A member that came and went: the bit above the second word is set, the word is empty.
    index.insert(100);
    index.remove(100);
    let inserter = Arc::clone(&index);
    let thread = thread::spawn(move || inserter.insert(101));
    index.find(0);
    thread.join().expect("no panic");
    assert_eq!(index.find(0), Some(101), "lost");
}

/// The same in the inverted index, with two members that enter and one that leaves.
fn search_against_insert_and_remove() {
    let index = Arc::new(Index::full(66).expect("memory"));

    (0..66).for_each(|megabyte| index.remove(megabyte));
    let other = Arc::clone(&index);
    let thread = thread::spawn(move || {
        other.insert(64);
        other.remove(64);
        other.insert(64);
    });
    index.insert(65);
    index.find(0);
    index.remove(65);
    index.find(0);
    thread.join().expect("no panic");
    assert_eq!(index.find(0), Some(64), "lost");
}

/// Two threads want small blocks of a pool that has room for both in its only megabyte.
fn two_share_the_last_megabyte() {
    let allocator = Arc::new(Allocator::<()>::new(MEGABYTE, Threads::Many).expect("memory"));
    let other = Arc::clone(&allocator);
    let thread = thread::spawn(move || allocate(&other, Kib256));
    let blocks = [
        allocate(&allocator, Kib256),
        thread.join().expect("no panic"),
    ];
    assert_both_got_one(blocks);
    assert_eq!(allocator.remaining_bytes(), MEGABYTE / 2);
}

/// Two threads take units of a megabyte that stays in its class.
fn two_share_a_broken_megabyte() {
    let allocator = Arc::new(Allocator::<()>::new(MEGABYTE, Threads::Many).expect("memory"));
    allocator.adopt(Block::new(0, Kib4)).expect("free");
    let other = Arc::clone(&allocator);
    let thread = thread::spawn(move || allocate(&other, Kib4));
    let blocks = [allocate(&allocator, Kib4), thread.join().expect("no panic")];
    assert_both_got_one(blocks);
}

/// A thread wants a small block while the megabyte with room for it moves from class to class.
fn search_while_a_megabyte_changes_its_class() {
    let allocator = Arc::new(Allocator::<()>::new(MEGABYTE, Threads::Many).expect("memory"));
    // Three 256 KiB slots and three 64 KiB slots of the fourth are taken: one of 64 KiB is left.
    let mut held: Vec<_> = (0..3)
        .map(|_| allocate(&allocator, Kib256).expect("room"))
        .collect();
    held.extend((0..3).map(|_| allocate(&allocator, Kib64).expect("room")));
    let other = Arc::clone(&allocator);
    // From 64 KiB left to 4 KiB left: room for a unit is there at any moment.
    let thread = thread::spawn(move || allocate(&other, Kib4));
    let mine = allocate(&allocator, Kib4);
    let blocks = [mine, thread.join().expect("no panic")];
    assert_both_got_one(blocks);
}

/// Two threads want two megabytes each of a pool that has three.
fn two_want_more_than_there_is() {
    let allocator = Arc::new(Allocator::<()>::new(3 * MEGABYTE, Threads::Many).expect("memory"));
    let take_two = |allocator: &Allocator<()>| {
        let mut count = 0;
        let plan = AllocationPlan {
            block_type: Mib1,
            count: 2,
        };
        allocator
            .allocate(plan, OwnerTag::NONE, 0, |_| count += 1)
            .map(|()| count)
    };
    let other = Arc::clone(&allocator);
    let thread = thread::spawn(move || take_two(&other));
    let results = [take_two(&allocator), thread.join().expect("no panic")];
    let both = [(Ok(2), Err(Status::NoSpace)), (Err(Status::NoSpace), Ok(2))];
    assert!(both.contains(&(results[0], results[1])), "{results:?}");
    assert_eq!(allocator.remaining_bytes(), MEGABYTE);
}

/// Two threads take the last two megabytes.
fn two_take_a_megabyte_each() {
    let allocator = Arc::new(Allocator::<()>::new(2 * MEGABYTE, Threads::Many).expect("memory"));
    let other = Arc::clone(&allocator);
    let thread = thread::spawn(move || allocate(&other, Mib1));
    assert_both_got_one([allocate(&allocator, Mib1), thread.join().expect("no panic")]);
    assert_eq!(allocator.remaining_bytes(), 0);
}

/// Two threads free the same block.
fn two_free_one_block() {
    let allocator = Arc::new(Allocator::<()>::new(MEGABYTE, Threads::Many).expect("memory"));
    let block = allocate(&allocator, Kib64).expect("room");
    let free = move |allocator: &Allocator<()>| match allocator.free(&[block], ()) {
        Ok(()) => Ok(()),
        Err((error, ())) => Err(error.status),
    };
    let other = Arc::clone(&allocator);
    let thread = thread::spawn(move || free(&other));
    let mut results = [free(&allocator), thread.join().expect("no panic")];
    results.sort_by_key(Result::is_err);
    assert_eq!(results, [Ok(()), Err(Status::DoubleFree)]);
    assert_eq!(allocator.remaining_bytes(), MEGABYTE);
}

/// A megabyte becomes whole while another thread wants a whole megabyte.
fn free_against_allocation() {
    let allocator = Arc::new(Allocator::<()>::new(MEGABYTE, Threads::Many).expect("memory"));
    let block = allocate(&allocator, Kib64).expect("room");
    let other = Arc::clone(&allocator);
    let thread = thread::spawn(move || allocate(&other, Mib1));
    let freer = Arc::clone(&allocator);
    let freeing = thread::spawn(move || assert!(freer.free(&[block], ()).is_ok()));
    let whole = thread.join().expect("no panic");
    freeing.join().expect("no panic");
    let whole = whole.or_else(|_| allocate(&allocator, Mib1));
    assert_eq!(whole, Ok(Block::new(0, Mib1)));
    assert_eq!(allocator.remaining_bytes(), 0);
}

/// A thread wants a small block of a pool while another frees its only block.
fn free_against_small_allocation() {
    let allocator = Arc::new(Allocator::<()>::new(MEGABYTE, Threads::Many).expect("memory"));
    let first = allocate(&allocator, Kib64).expect("room");
    let freer = Arc::clone(&allocator);
    let thread = thread::spawn(move || assert!(freer.free(&[first], ()).is_ok()));
    // There is room at any moment, in a broken megabyte or in a whole one.
    let second = allocate(&allocator, Kib64).expect("room");
    thread.join().expect("no panic");
    assert!(allocator.free(&[second], ()).is_ok());
    assert_eq!(allocate(&allocator, Mib1), Ok(Block::new(0, Mib1)));
}

/// The room for a small block moves: first it is a whole megabyte, then a slot.
fn room_comes_before_it_goes() {
    let allocator = Arc::new(Allocator::<()>::new(2 * MEGABYTE, Threads::Many).expect("memory"));
    let full = [0, 1, 2, 3].map(|_| allocate(&allocator, Kib256).expect("room"));
    let other = Arc::clone(&allocator);
    let thread = thread::spawn(move || {
        assert!(other.free(&full[..1], ()).is_ok());
        let _ = allocate(&other, Mib1);
    });
    allocate(&allocator, Kib256).expect("room at any moment");
    thread.join().expect("no panic");
}

macro_rules! models {
    ($($name:ident: $preemptions:literal, $model:expr;)+) => {
        $(#[test]
        fn $name() {
            explore($preemptions, None, $model);
        })+
    };
}

models! {
    loom_io_never_reaches_the_next_life: 6, io_against_free::<1>;
    loom_io_of_two_never_reaches_the_next_life: 3, io_against_free::<2>;
    loom_busy_phases_drain_in_turn: 3, free_with_both_phases_busy;
    loom_index_loses_nothing: 6, search_against_insert;
    loom_inverted_index_loses_nothing: 6, search_against_insert_and_remove;
    loom_the_last_megabyte_is_shared: 4, two_share_the_last_megabyte;
    loom_a_broken_megabyte_is_shared: 4, two_share_a_broken_megabyte;
    loom_a_class_change_hides_nothing: 4, search_while_a_megabyte_changes_its_class;
    loom_wholes_are_all_or_nothing: 4, two_want_more_than_there_is;
    loom_two_take_different_megabytes: 4, two_take_a_megabyte_each;
    loom_a_block_is_freed_once: 4, two_free_one_block;
    loom_a_freed_megabyte_is_whole: 4, free_against_allocation;
    loom_room_is_found_while_it_moves: 4, free_against_small_allocation;
    loom_room_that_comes_in_time_is_found: 4, room_comes_before_it_goes;
}

macro_rules! weakened_models {
    ($($name:ident: $weakness:ident, $preemptions:literal, $model:expr, $symptom:literal;)+) => {
        $(#[test]
        #[should_panic(expected = $symptom)]
        fn $name() {
            explore($preemptions, Some(Weakness::$weakness), $model);
        })+
    };
}

weakened_models! {
    loom_fails_if_a_pin_checks_first:
        PinChecksLiveFirst, 3, io_against_free::<1>, "I/O ran into the next life";
    loom_fails_if_a_free_only_loads_pins:
        FreeOnlyLoadsPins, 3, io_against_free::<1>, "I/O ran into the next life";
    loom_fails_if_a_pin_counts_relaxed:
        PinCountsRelaxed, 3, io_against_free::<1>, "I/O ran into the next life";
    loom_fails_if_unpin_is_relaxed:
        UnpinRelaxed, 3, io_against_free::<1>, "I/O ran into the next life";
    loom_fails_if_draining_is_announced_late:
        DrainAnnouncedLate, 3, io_against_free::<1>, "never freed";
    loom_fails_if_only_one_phase_is_awaited:
        DrainAwaitsCurrentOnly, 2, free_with_both_phases_busy, "I/O ran into the next life";
    loom_fails_if_phases_never_flip:
        DrainNeverFlips, 2, free_with_both_phases_busy, "never freed";
    loom_fails_if_a_summary_is_not_rechecked:
        SummaryNotRechecked, 4, search_against_insert, "lost";
    loom_fails_if_a_summary_is_not_rewritten:
        SummaryNotRewritten, 4, search_against_insert, "lost";
    loom_fails_if_breaking_is_not_exclusive:
        BreakNotExclusive, 2, two_share_the_last_megabyte, "NoSpace";
    loom_fails_if_a_class_is_left_first:
        ClassLeftFirst, 2, search_while_a_megabyte_changes_its_class, "NoSpace";
    loom_fails_if_a_whole_is_counted_late:
        WholeCountedLate, 3, free_against_small_allocation, "NoSpace";
    loom_fails_if_the_census_is_not_repeated:
        CensusNotRepeated, 3, room_comes_before_it_goes, "NoSpace";
    loom_fails_if_unlock_is_relaxed:
        UnlockRelaxed, 3, two_share_a_broken_megabyte, "two blocks in one place";
    // A thread that got from the count a megabyte that is not there searches for ever.
    loom_fails_if_wholes_are_not_reserved:
        WholesNotReserved, 2, two_want_more_than_there_is, "maximum number of branches";
}
