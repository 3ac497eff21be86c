//! Allocations on a device whose blocks are zeroed before anybody hears of them, by the pool's keeper.
//!
//! Laws:
//! - They take turns, a piece of one large allocation or some small ones each: a large one holds up neither small ones
//!   nor what else the keeper does.
//! - What was zeroed is durable before a commit records the block: a power cut in between would leave a block of a new
//!   owner's with what was in it before.
//! - An allocation whose blocks cannot be zeroed fails, and its space is free again.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use chimaera_bdev_format::Disk;
use chimaera_chimod::{Host, Level};
use chimaera_proto::Failure;

use super::allocation::{self, AllocationOutcome};
use crate::backend::file::MetadataDisk;
use crate::backend::new_blocks::NewBlocks;
use crate::pool::failure::failure_of;
use crate::pool::state::PoolState;

/// Bytes of the allocations of one turn, at which it ends.
const TURN_BYTES: u64 = 1 << 20;

/// Allocations of one turn, at most: each flush that waits is served between two turns, so that one for each small
/// allocation would be too many.
const TURN_PIECES: usize = 64;

/// The allocations that wait, the next one first.
#[derive(Default)]
pub(super) struct ZeroingQueue {
    waiting: VecDeque<Zeroing>,
    /// Whether anything was zeroed since the last flush.
    is_unflushed: bool,
    has_told_of_failure: bool,
}

/// An allocation whose blocks are being zeroed.
struct Zeroing {
    new: NewBlocks,
    /// What is left of its blocks.
    ranges: VecDeque<Range<u64>>,
}

impl ZeroingQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn push(&mut self, new: NewBlocks) {
        let ranges = new.ranges().into();
        self.waiting.push_back(Zeroing { new, ranges });
    }

    /// Zeroes a piece of a large allocation, or some small ones, and says whether a commit is wanted then. Nothing is
    /// written to a device that has `failed`. Blocks.
    pub(super) fn take_turn(
        &mut self,
        device: (&MetadataDisk, Option<Failure>),
        pool: &PoolState,
        host: Host,
    ) -> bool {
        let (mut wants_commit, mut left) = (false, TURN_BYTES);
        for _ in 0..TURN_PIECES {
            let Some(first) = self.waiting.pop_front() else {
                break;
            };
            left = left.saturating_sub(first.new.bytes());
            let outcome = self.go_on(first, device, pool, host);
            wants_commit |= matches!(outcome, Some(AllocationOutcome::CompletedAmongManyTags));
            if left == 0 {
                break;
            }
        }
        wants_commit
    }

    /// Zeroes a piece of an allocation, and gives what becomes of it if it ends with that.
    fn go_on(
        &mut self,
        mut first: Zeroing,
        (disk, failed): (&MetadataDisk, Option<Failure>),
        pool: &PoolState,
        host: Host,
    ) -> Option<AllocationOutcome> {
        let (allocator, counters) = (&pool.allocator, pool.counters.of_keeper());
        if let Some(failure) = failed {
            return Some(allocation::give_up(allocator, counters, first.new, failure));
        }
        self.is_unflushed = true;
        match first.zero_piece(disk) {
            Ok(()) if !first.ranges.is_empty() => {
                self.waiting.push_back(first);
                None
            }
            Ok(()) => Some(allocation::hand_out(allocator, counters, first.new)),
            Err(error) => {
                if error.raw_os_error() == Some(libc::ENOSPC) {
                    // The file system, which is full, may have set space aside for a part of them.
                    let ranges = first.new.ranges().into_iter();
                    ranges.for_each(|range| disk.give_back(range));
                }
                self.tell_of_failure(&error, host);
                let failure = failure_of(&error);
                Some(allocation::give_up(allocator, counters, first.new, failure))
            }
        }
    }

    /// Makes what was zeroed durable, if anything was. To be called before a commit. Blocks.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn flush(&mut self, disk: &MetadataDisk) -> io::Result<()> {
        match std::mem::take(&mut self.is_unflushed) {
            true => disk.flush(),
            false => Ok(()),
        }
    }

    /// Tells the log once: if the cause stays, every allocation would repeat it.
    fn tell_of_failure(&mut self, error: &io::Error, host: Host) {
        if std::mem::replace(&mut self.has_told_of_failure, true) {
            return;
        }
        host.log(
            Level::Error,
            format_args!(
                "cannot zero new blocks: {error}; they are not handed out, and allocations fail as long as that stays \
                 so"
            ),
        );
    }
}

impl Zeroing {
    fn zero_piece(&mut self, disk: &MetadataDisk) -> io::Result<()> {
        let Some(range) = self.ranges.front_mut() else {
            return Ok(());
        };
        range.start += disk.zero(range.clone())?;
        if range.is_empty() {
            self.ranges.pop_front();
        }
        Ok(())
    }
}
