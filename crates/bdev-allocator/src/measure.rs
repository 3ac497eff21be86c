//! How long allocation takes. Prints, and asserts nothing: run it in release mode with
//! `--ignored --nocapture measure`.
#![expect(clippy::print_stdout, reason = "a measurement is there to be read")]

use std::hint::black_box;
use std::time::Instant;

use chimaera_bdev_proto::{AllocationPlan, BlockType, OwnerTag};

use super::*;

const ROUNDS: u32 = 5_000_000;

/// A completion that does nothing, so that the allocator alone is measured.
struct Nothing;

impl FreeCompletion for Nothing {
    fn freed(self) {}
}

fn time(name: &str, mut once: impl FnMut()) {
    for _ in 0..1000 {
        once();
    }
    let start = Instant::now();
    for _ in 0..ROUNDS {
        once();
    }
    println!(
        "{name}: {:.1} ns",
        start.elapsed().as_nanos() as f64 / f64::from(ROUNDS)
    );
}

#[test]
#[ignore = "a measurement"]
fn measure_allocation() {
    let allocator = Allocator::<Nothing>::new(16 << 40, Threads::Many).expect("address space");
    let one = |block_type: BlockType| {
        let mut found = None;
        let plan = AllocationPlan {
            block_type,
            count: 1,
        };
        allocator
            .allocate(plan, OwnerTag::NONE, 0, |block| found = Some(block))
            .expect("room");
        found.expect("one block")
    };
    let pair = |block_type| {
        let block = black_box(one(black_box(block_type)));
        assert!(allocator.free(&[block], Nothing).is_ok());
    };
    for block_type in BlockType::ALL {
        time(&format!("allocate + free {block_type}, empty pool"), || {
            pair(block_type);
        });
    }
    let block = one(BlockType::Kib4);
    for block_type in BlockType::ALL {
        time(
            &format!("allocate + free {block_type}, beside a block"),
            || pair(block_type),
        );
    }
    time("pin + unpin", || {
        allocator.unpin(allocator.pin(black_box(block)).expect("live"));
    });
    let start = Instant::now();
    let plan = AllocationPlan::for_size(1 << 40);
    allocator
        .allocate(plan, OwnerTag::NONE, 0, |block| _ = black_box(block))
        .expect("room");
    println!(
        "allocate 1 TiB: {:.1} ns per MiB",
        start.elapsed().as_nanos() as f64 / plan.count as f64
    );
}

#[test]
#[ignore = "a measurement"]
fn measure_two_workers() {
    for block_type in [BlockType::Kib4, BlockType::Mib1] {
        let allocator = Allocator::<Nothing>::new(16 << 40, Threads::Many).expect("address space");
        let plan = AllocationPlan {
            block_type,
            count: 1,
        };
        let start = Instant::now();
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let allocator = &allocator;
                scope.spawn(move || {
                    for _ in 0..ROUNDS / 5 {
                        let mut found = None;
                        allocator
                            .allocate(plan, OwnerTag::NONE, worker, |block| found = Some(block))
                            .expect("room");
                        let block = found.expect("one block");
                        assert!(allocator.free(&[block], Nothing).is_ok());
                    }
                });
            }
        });
        let each = start.elapsed().as_nanos() as f64 / f64::from(ROUNDS / 5);
        println!("allocate + free {block_type}, two workers at once: {each:.1} ns each");
    }
}
