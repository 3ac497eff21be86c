//! A lane: a ring of task entries, the records in which tasks complete, and the words through
//! which either side learns that the other sleeps.
//!
//! One client thread at a time publishes, one worker takes; records may complete in any order.
//! Cursors are private to each side: entry `s % DEPTH` is published when it carries the sequence
//! `s`, which the worker expects next. A client has at most `DEPTH` tasks in flight, so an entry
//! is free when its turn comes again: of the `DEPTH` tasks since it was last used at least one has
//! completed, and tasks are taken in order, so the task that last used the entry was taken before that one.
//!
//! A record is complete when its flag is the sequence of the task it was given to. So nothing
//! has to be reset before it is used again, and a sleeper never mistakes one task for another.

use std::fmt;
use std::time::Duration;

use chimaera_proto::Completion;
use chimaera_proto::limits::LANE_DEPTH;
#[cfg(not(loom))]
use chimaera_proto::limits::LANE_STRIDE_BYTES;
use chimaera_proto::task::DESCRIPTOR_WORDS;

use crate::barrier::PublishOrder;
use crate::futex;
use crate::processor;
use crate::record::Record;
use crate::sync::{AtomicU32, AtomicU64, Guard, Ordering, compiler_fence};

/// A lane's memory, as it lies in a client's first segment. The model checker uses a smaller
/// `DEPTH`.
#[repr(C, align(4096))]
pub struct LaneMemory<const DEPTH: usize = LANE_DEPTH> {
    parking: Parking,
    waiters: Waiters,
    entries: [Entry; DEPTH],
    records: [Record; DEPTH],
}

/// Written by the worker when it parks the lane; cleared by the client that rings.
#[repr(C, align(128))]
struct Parking {
    need_wakeup: AtomicU32,
    /// Where the worker runs.
    worker_processor: AtomicU32,
}

/// Written by the client when it goes to sleep; bit `n` stands for record `n`.
#[repr(C, align(128))]
struct Waiters {
    /// Somebody sleeps on the record's flag.
    sleepers: AtomicU64,
    /// The segment's bell is to be rung when the record completes.
    watched: AtomicU64,
    /// Where the client's thread ran when it last waited.
    client_processor: AtomicU32,
}

/// A descriptor; the low half of word 0 is its sequence.
#[repr(C, align(64))]
struct Entry {
    words: [AtomicU64; DESCRIPTOR_WORDS],
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Entry>() == 64);
    assert!(size_of::<LaneMemory>() == LANE_STRIDE_BYTES);
};

/// What a worker found at its cursor.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// The next task is not there yet.
    Nothing,
    /// The next task, which was copied.
    Task,
    /// A sequence that cannot be there: the client breaks the protocol.
    Violation {
        /// The sequence that was found.
        found: u32,
    },
}

/// The client's side.
impl<const DEPTH: usize> LaneMemory<DEPTH> {
    /// Publishes a task. `words` carry `sequence`, which is one more than that of the task
    /// published before; the first is 1. Only one thread publishes at a time, and fewer than
    /// `DEPTH` tasks are in flight.
    #[inline]
    pub fn publish(&self, sequence: u32, words: &[u64; DESCRIPTOR_WORDS]) {
        debug_assert_eq!(words[0] as u32, sequence);
        let entry = &self.entries[sequence as usize % DEPTH];
        // The compiler knows the lengths of these slices and unrolls the loop; with `skip` it does not always.
        for (shared, &word) in entry.words[1..].iter().zip(&words[1..]) {
            shared.store(word, Ordering::Relaxed);
        }
        // Release pairs with the acquire in `take`: a worker that sees the sequence sees the other words.
        entry.words[0].store(words[0], Guard::Publish.release());
    }

    /// Whether the worker has parked the lane and must be rung. To be called after publishing;
    /// says so to one caller only.
    #[inline]
    #[must_use]
    pub fn must_ring(&self, order: PublishOrder) -> bool {
        // Pairs with what comes between `begin_park` and `finish_park`. Either our entry is seen
        // there after need_wakeup was set, and the worker does not park; or need_wakeup is seen
        // here, and we ring.
        match order {
            PublishOrder::Fence => Guard::PublishThenLook.fence(),
            // The fence is the barrier's, at whatever instruction it interrupts us; the compiler
            // must leave the two in their order for that to help.
            PublishOrder::HostBarrier => compiler_fence(Ordering::SeqCst),
        }
        let word = &self.parking.need_wakeup;
        // A swap only where it is set: the line stays shared on the busy path.
        word.load(Ordering::Relaxed) != 0 && word.swap(0, Ordering::Relaxed) != 0
    }

    /// Whether the task with this sequence has completed in this record.
    #[inline]
    #[must_use]
    pub fn is_complete(&self, record: usize, sequence: u32) -> bool {
        // Acquire pairs with the release in `complete`: a thread that sees the flag sees the completion,
        // and whatever the worker did for the task before.
        self.records[record].flag.load(Guard::Observe.acquire()) == sequence
    }

    /// The record with this index.
    #[inline]
    #[must_use]
    pub fn record(&self, record: usize) -> &Record {
        &self.records[record]
    }

    /// Copies a completion. To be called after [`Self::is_complete`], before the record is given
    /// to another task.
    #[inline]
    #[must_use]
    pub fn completion(&self, record: usize) -> Completion {
        let record = self.record(record);
        Completion {
            status_word: record.status_word(),
            values: record.values(),
        }
    }

    /// Clears the flag of a record that was not used for a long time: sequences wrap, so it might happen to carry that
    /// of the task that the record is given to now.
    pub fn clear_flag(&self, record: usize, sequence: u32) {
        self.records[record]
            .flag
            .store(!sequence, Ordering::Relaxed);
    }

    /// Sleeps until the task with this sequence has completed in this record, the timeout
    /// passes, or for no reason at all. Returns whether it has completed.
    pub fn sleep(&self, record: usize, sequence: u32, timeout: Option<Duration>) -> bool {
        self.note_client();
        let bit = 1 << record;
        self.waiters.sleepers.fetch_or(bit, Ordering::Relaxed);
        // Pairs with the fence in `look_for_waiters`. Either the worker's completion is seen
        // below, and we do not sleep; or our bit is seen there, and the worker wakes us: its
        // completion changes the flag before, so the wake-up cannot slip in between our look and
        // the kernel's.
        Guard::AnnounceThenLook.fence();
        let flag = &self.records[record].flag;
        let seen = flag.load(Ordering::Relaxed);
        if seen != sequence {
            futex::wait(flag, seen, timeout);
        }
        self.waiters.sleepers.fetch_and(!bit, Ordering::Relaxed);
        self.is_complete(record, sequence)
    }

    /// Asks that the segment's bell be rung when the record completes. Returns whether the task
    /// has completed already; the bell may not ring then.
    #[must_use]
    pub fn watch(&self, record: usize, sequence: u32) -> bool {
        self.note_client();
        // Release pairs with the acquire in `look_for_waiters`: what the watcher is to find when the
        // bell rings was noted before.
        self.waiters
            .watched
            .fetch_or(1 << record, Ordering::Release);
        // Pairs with the fence in `look_for_waiters`, as in `sleep`.
        Guard::AnnounceThenLook.fence();
        self.is_complete(record, sequence)
    }

    /// As [`Self::watch`], for all records. The caller then looks for records that have completed already; the bell
    /// may not ring for them.
    pub fn watch_all(&self) {
        // As in `watch`, twice.
        self.waiters.watched.fetch_or(u64::MAX, Ordering::Release);
        Guard::AnnounceThenLook.fence();
    }

    /// Whether the worker runs on the processor of this thread, which is about to wait, as far as the worker has noted.
    /// Notes this thread's processor for the worker.
    #[inline]
    #[must_use]
    pub fn waits_beside_worker(&self) -> bool {
        let worker = self.parking.worker_processor.load(Ordering::Relaxed);
        // Relaxed: either word is a hint, which orders nothing and may be out of date.
        self.note_client() == worker && worker != processor::UNKNOWN
    }

    /// Notes the processor on which this thread of the client waits, and returns it.
    #[inline]
    fn note_client(&self) -> u32 {
        if cfg!(loom) {
            // It orders nothing, so the model checker need not go through it.
            return processor::UNKNOWN;
        }
        let here = processor::current();
        let word = &self.waiters.client_processor;
        // Written only where it changes: the worker reads this line after each completion.
        if word.load(Ordering::Relaxed) != here {
            word.store(here, Ordering::Relaxed);
        }
        here
    }

    /// Takes back [`Self::watch`].
    pub fn unwatch(&self, record: usize) {
        self.unwatch_many(1 << record);
    }

    /// Takes back [`Self::watch`] of many records; bit `n` stands for record `n`.
    pub fn unwatch_many(&self, records: u64) {
        self.waiters.watched.fetch_and(!records, Ordering::Relaxed);
    }
}

/// The worker's side.
impl<const DEPTH: usize> LaneMemory<DEPTH> {
    /// Looks for the task with this sequence and copies its descriptor to `words`. `expected` is
    /// one more than the sequence taken before, counted from 1 without wrapping; only its low half
    /// travels.
    #[inline]
    #[must_use]
    pub fn take(&self, expected: u64, words: &mut [u64; DESCRIPTOR_WORDS]) -> Taken {
        let entry = &self.entries[expected as usize % DEPTH];
        // Acquire pairs with the release in `publish`.
        let first = entry.words[0].load(Guard::Take.acquire());
        let found = first as u32;
        if found == expected as u32 {
            words[0] = first;
            for (word, shared) in words[1..].iter_mut().zip(&entry.words[1..]) {
                *word = shared.load(Ordering::Relaxed);
            }
            return Taken::Task;
        }
        // Otherwise the entry still carries the task of the lap before, or nothing in the first.
        let before = expected.saturating_sub(DEPTH as u64) as u32;
        if found == before {
            Taken::Nothing
        } else {
            Taken::Violation { found }
        }
    }

    /// Prefetches the cache line of a record that will be written soon. A hint without other effects.
    #[inline]
    pub fn prefetch_record(&self, record: usize) {
        #[cfg(not(loom))]
        crate::prefetch::for_writing((&raw const self.records[record]).cast());
        #[cfg(loom)]
        let _ = record;
    }

    /// Completes the task with this sequence in this record with the first of its values. What
    /// the other values are is not specified.
    ///
    /// # Panics
    /// If there are more values than a record holds, or no such record: a mistake of the caller.
    #[inline]
    pub fn complete(&self, record: usize, sequence: u32, status_word: u32, values: &[u64]) {
        let record = &self.records[record];
        record.status.store(status_word, Ordering::Relaxed);
        for (shared, &value) in record.values[..values.len()].iter().zip(values) {
            shared.store(value, Ordering::Relaxed);
        }
        // Release pairs with the acquire in `is_complete`.
        record.flag.store(sequence, Guard::Complete.release());
    }

    /// Orders completions before the look for waiters. One fence serves all lanes of a pass.
    #[inline]
    pub fn fence_before_looking() {
        // Pairs with the fences in `sleep` and `watch`.
        Guard::CompleteThenLook.fence();
    }

    /// Which of the records that have `completed` somebody sleeps on, and whether the watcher of
    /// the segment's bell waits for one. To be called after [`Self::fence_before_looking`], which
    /// comes after the completions.
    #[inline]
    #[must_use]
    pub fn look_for_waiters(&self, completed: u64) -> (u64, bool) {
        let sleepers = self.waiters.sleepers.load(Ordering::Relaxed) & completed;
        let watched = self.waiters.watched.load(Ordering::Acquire) & completed;
        (sleepers, watched != 0)
    }

    /// Whether the lane's client last waited on this processor. A hint and no more: the client may have moved, and need
    /// not tell the truth.
    #[inline]
    #[must_use]
    pub fn client_waits_on(&self, processor: u32) -> bool {
        let client = self.waiters.client_processor.load(Ordering::Relaxed);
        client == processor && client != processor::UNKNOWN
    }

    /// Notes for the client on which processor the worker runs.
    pub fn note_worker(&self, processor: u32) {
        self.parking
            .worker_processor
            .store(processor, Ordering::Relaxed);
    }

    /// Wakes whoever sleeps on these records. Never blocks.
    pub fn wake_sleepers(&self, mut records: u64) {
        while records != 0 {
            let record = records.trailing_zeros() as usize;
            records &= records - 1;
            futex::wake(&self.records[record].flag);
        }
    }

    /// Announces that the lane is going to be parked: from now on the client rings.
    pub fn begin_park(&self) {
        self.parking.need_wakeup.store(1, Ordering::Relaxed);
    }

    /// Orders [`Self::begin_park`] of any number of lanes before [`Self::finish_park`] of any of
    /// them, for clients with [`PublishOrder::Fence`]. Others need a
    /// [`barrier`](crate::barrier::barrier) as well.
    pub fn fence_before_parking() {
        // Pairs with the fence in `must_ring`.
        Guard::ParkThenLook.fence();
    }

    /// Parks the lane, unless its next task is there already. Returns whether it is parked.
    #[must_use]
    pub fn finish_park(&self, expected: u64) -> bool {
        if self.take(expected, &mut [0; DESCRIPTOR_WORDS]) == Taken::Nothing {
            return true;
        }
        self.unpark();
        false
    }

    /// Takes the lane back into polling: clients need not ring any more.
    pub fn unpark(&self) {
        self.parking.need_wakeup.store(0, Ordering::Relaxed);
    }
}

impl<const DEPTH: usize> fmt::Debug for LaneMemory<DEPTH> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LaneMemory")
    }
}

#[cfg(all(test, loom))]
impl<const DEPTH: usize> LaneMemory<DEPTH> {
    /// A lane as a new segment has it: all zero.
    pub(crate) fn zeroed() -> Self {
        Self {
            parking: Parking {
                need_wakeup: AtomicU32::new(0),
                worker_processor: AtomicU32::new(processor::UNKNOWN),
            },
            waiters: Waiters {
                sleepers: AtomicU64::new(0),
                watched: AtomicU64::new(0),
                client_processor: AtomicU32::new(processor::UNKNOWN),
            },
            entries: std::array::from_fn(|_| Entry {
                words: std::array::from_fn(|_| AtomicU64::new(0)),
            }),
            records: std::array::from_fn(|_| Record::zeroed()),
        }
    }
}
