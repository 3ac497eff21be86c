//! A write changes exactly its own bytes, whatever is in flight beside it.
//!
//! Each round cuts a block at random places and writes some of the pieces, all at once, on one or
//! two workers, while other pieces are read. Most pieces only share device blocks; some are widened
//! to whole ones, and so overlap. A byte that one write has must hold that write's value, a byte
//! that several have the value of one of them, and every other byte what it held before. Every
//! mistake in the exclusion loses somebody's bytes.

use chimaera_bdev_proto::{Block, CreateParams, Method};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;

use super::on_every_file;
use crate::testing::{TestBuffer, TestPool, file_params};

const BLOCK_BYTES: usize = 64 << 10;

/// What happens in a round.
#[derive(Clone, Debug)]
struct Round {
    cuts: Vec<Index>,
    pieces: Vec<Piece>,
    /// Which workers make passes, in turn, until all is done.
    passes: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    writes: bool,
    worker: u32,
    value: u8,
    /// Distance of the memory from an aligned address.
    shift: usize,
    /// Whether the piece is widened to whole device blocks.
    whole: bool,
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let piece = (
        prop::bool::weighted(0.8),
        0..2u32,
        1..=u8::MAX,
        prop_oneof![Just(0), 1..4096usize],
        prop::bool::weighted(0.2),
    )
        .prop_map(|(writes, worker, value, shift, whole)| Piece {
            writes,
            worker,
            value,
            shift,
            whole,
        });
    let round = (1..24usize).prop_flat_map(move |count| {
        (
            prop::collection::vec(any::<Index>(), count),
            prop::collection::vec(piece.clone(), count + 1),
            prop::collection::vec(0..2u32, 1..20),
        )
            .prop_map(|(cuts, pieces, passes)| Round {
                cuts,
                pieces,
                passes,
            })
    });
    prop::collection::vec(round, 1..5)
}

/// Where the pieces of a round lie. Most cuts fall close together, so that device blocks are
/// shared by many.
fn ranges(round: &Round, unit: usize) -> Vec<std::ops::Range<usize>> {
    let mut cuts: Vec<_> = round
        .cuts
        .iter()
        .enumerate()
        .map(|(number, cut)| match number % 3 {
            0 => cut.index(BLOCK_BYTES),
            _ => cut.index(3 * unit),
        })
        .collect();
    cuts.extend([0, BLOCK_BYTES]);
    cuts.sort_unstable();
    let pieces = round.pieces.iter().zip(cuts.windows(2));
    pieces
        .map(|(piece, cut)| {
            if piece.whole && cut[0] < cut[1] {
                cut[0] - cut[0] % unit..cut[1].next_multiple_of(unit)
            } else {
                cut[0]..cut[1]
            }
        })
        .collect()
}

/// What each byte of the block may hold in the course of a round.
struct Model {
    before: Vec<u8>,
    written: Vec<Vec<u8>>,
}

impl Model {
    fn new() -> Self {
        Self {
            before: vec![0; BLOCK_BYTES],
            written: vec![Vec::new(); BLOCK_BYTES],
        }
    }

    /// Checks bytes that were read while the round's writes were under way.
    fn check_meanwhile(&self, start: usize, bytes: &[u8]) {
        for (at, byte) in (start..).zip(bytes) {
            let old = self.before[at] == *byte;
            assert!(old || self.written[at].contains(byte), "{byte} at {at}");
        }
    }

    /// Checks the whole block when the round's writes are over, and goes on from there.
    fn check_after(&mut self, bytes: Vec<u8>) {
        for (at, byte) in bytes.iter().enumerate() {
            let written = &mut self.written[at];
            let right = match written.is_empty() {
                true => self.before[at] == *byte,
                false => written.contains(byte),
            };
            let before = self.before[at];
            assert!(
                right,
                "{byte} at {at}, before {before}, written {written:?}"
            );
            written.clear();
        }
        self.before = bytes;
    }
}

fn play(pool: &TestPool, workers: u32, block: Block, model: &mut Model, rounds: &[Round]) {
    for round in rounds {
        let ranges = ranges(round, pool.stats().alignment as usize);
        let mut started = Vec::new();
        for (piece, range) in round.pieces.iter().zip(&ranges) {
            if range.is_empty() {
                continue;
            }
            let method = if piece.writes {
                Method::Write
            } else {
                Method::Read
            };
            let mut buffer = TestBuffer::new(range.len(), piece.shift);
            buffer.bytes_mut().fill(piece.value);
            let offset = range.start as u64;
            let worker = piece.worker % workers;
            let task = pool.start(worker, method, block, offset, &mut buffer);
            if piece.writes {
                for written in &mut model.written[range.clone()] {
                    written.push(piece.value);
                }
            }
            started.push((task, piece.writes, range.clone(), buffer));
        }
        for &worker in &round.passes {
            let _ = pool.poll(worker % workers);
        }
        for (task, writes, range, buffer) in &started {
            let values = pool.wait(*task).expect("done");
            assert_eq!(values[0], range.len() as u64);
            if !writes {
                model.check_meanwhile(range.start, buffer.bytes());
            }
        }
        model.check_after(pool.read(block, 0, BLOCK_BYTES).expect("read"));
    }
}

fn check(workers: u32, io_depth: u32, alignment: u32, cases: u32) {
    let params = CreateParams {
        io_depth: Some(io_depth),
        alignment: Some(alignment),
        ..file_params(1 << 20)
    };
    on_every_file(&params, workers, |pool| {
        let block = pool.allocate(BLOCK_BYTES as u64).expect("room")[0];
        pool.write(block, 0, &[0; BLOCK_BYTES]).expect("written");
        let model = std::cell::RefCell::new(Model::new());
        let mut runner = TestRunner::new(ProptestConfig {
            cases,
            failure_persistence: None,
            // A failure leaves tasks behind, and the model without their bytes.
            max_shrink_iters: 0,
            ..ProptestConfig::default()
        });
        runner
            .run(&rounds(), |rounds| {
                play(pool, workers, block, &mut model.borrow_mut(), &rounds);
                Ok(())
            })
            .expect("the bytes beside it are as they were");
    });
}

#[test]
fn on_one_worker() {
    check(1, 32, 4096, 60);
}

#[test]
fn on_one_worker_with_few_places_and_small_device_blocks() {
    check(1, 3, 512, 60);
}

#[test]
fn on_two_workers() {
    check(2, 32, 4096, 60);
}

#[test]
fn on_two_workers_with_one_place_each() {
    check(2, 1, 512, 60);
}

/// Two threads write every other byte range of the same few device blocks, at depth.
#[test]
fn on_two_threads() {
    const PIECE: usize = 700;
    const PIECES: usize = 80;
    on_every_file(&file_params(1 << 20), 2, |pool| {
        let block = pool.allocate(BLOCK_BYTES as u64).expect("room")[0];
        for round in 1..=10u8 {
            let barrier = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                for worker in 0..2u32 {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        barrier.wait();
                        let started: Vec<_> = (worker as usize..PIECES)
                            .step_by(2)
                            .map(|piece| {
                                let value = round ^ piece as u8;
                                let mut buffer = TestBuffer::of(&[value; PIECE], piece % 5);
                                let offset = (piece * PIECE) as u64;
                                let method = Method::Write;
                                let task = pool.start(worker, method, block, offset, &mut buffer);
                                let _ = pool.poll(worker);
                                (task, buffer)
                            })
                            .collect();
                        for (task, _) in &started {
                            pool.wait_on(|| vec![worker], *task).expect("written");
                        }
                    });
                }
            });
            let stored = pool.read(block, 0, PIECE * PIECES).expect("read");
            for (piece, bytes) in stored.chunks(PIECE).enumerate() {
                let value = round ^ piece as u8;
                assert!(bytes.iter().all(|&byte| byte == value), "piece {piece}");
            }
        }
    });
}
