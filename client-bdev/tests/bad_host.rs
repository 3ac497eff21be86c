//! A host that gives impossible answers: the client believes none of them.

use chimaera_bdev_client::{
    Block, BlockType, Client, OwnedBlock, OwnerTag, PageCursor, PoolId, PoolQuery, Status,
};
use chimaera_bdev_proto::MAP_END;
use chimaera_testing::{FakeHost, HostBuffer, MIB, Verdict, Watchdog, attaching};

#[test]
fn impossible_answers_are_violations() {
    let _watchdog = Watchdog::start();
    let good = Block::new(4096, BlockType::Kib4).to_words();
    let cases: [&[u64]; 6] = [
        &[],
        &[0],
        &[2, good[0], good[1], good[0], good[1]],
        &[1, 1, good[1]],
        &[1, good[0], u64::MAX],
        &[u64::MAX, good[0], good[1]],
    ];
    for values in cases {
        let values = values.to_vec();
        let (_host, runtime) = FakeHost::connect(move |_, _| Verdict::ok(&values));
        let bdev = Client::new(&runtime, PoolId::new(8000, 0));
        let error = bdev
            .allocate_blocks(PoolQuery::Local, 4096)
            .expect_err("one block");
        assert_eq!(error.status(), Status::ProtocolViolation);
        let error = bdev
            .allocate_blocks(PoolQuery::Local, 9 * MIB)
            .expect_err("a list");
        assert_eq!(error.status(), Status::ProtocolViolation);
        let error = bdev.get_stats().expect_err("statistics");
        assert_eq!(error.status(), Status::ProtocolViolation);
    }
    let (_host, runtime) = FakeHost::connect(|_, _| Verdict::ok(&[11]));
    let bdev = Client::new(&runtime, PoolId::new(8000, 0));
    let mut buffer = runtime.allocate_buffer(10).expect("buffer");
    let block = Block::new(0, BlockType::Kib4);
    let error = bdev
        .read(PoolQuery::Local, &block, &mut buffer)
        .expect_err("too many");
    assert_eq!(error.status(), Status::ProtocolViolation);
}

/// A host that answers every request for a page with these bytes, count and next page.
fn answering(bytes: Vec<u8>, count: u64, next: u64) -> (FakeHost, Client) {
    let (host, runtime) = FakeHost::connect(attaching(move |_, buffer: Option<HostBuffer>| {
        let buffer = buffer.expect("pages have buffers");
        buffer.write(&bytes);
        Verdict::ok(&[count, next])
    }));
    let bdev = Client::new(&runtime, PoolId::new(8000, 0));
    (host, bdev)
}

fn listed(blocks: &[(u64, BlockType)]) -> Vec<u8> {
    let blocks = blocks.iter().map(|&(offset, block_type)| OwnedBlock {
        block: Block {
            offset,
            ..Block::new(0, block_type)
        },
        owner: OwnerTag(1).into(),
    });
    blocks.flat_map(OwnedBlock::to_bytes).collect()
}

#[test]
fn impossible_pages_of_a_list_are_violations() {
    use BlockType::{Kib4, Kib64, Mib1};
    let _watchdog = Watchdog::start();
    let from = PageCursor::at_offset(2 * MIB);
    let good = listed(&[
        (2 * MIB, Kib64),
        (2 * MIB + (64 << 10), Kib4),
        (3 * MIB, Mib1),
    ]);
    for next in [4, 5, MAP_END] {
        let (_host, bdev) = answering(good.clone(), 3, next);
        let page = bdev.list_blocks(PoolQuery::Local, from).expect("a page");
        assert_eq!(page.blocks.len(), 3);
        assert_eq!(page.next.is_none(), next == MAP_END);
    }
    let cases = [
        (
            "more than the buffer holds",
            good.clone(),
            u64::MAX,
            MAP_END,
        ),
        ("more than can be counted", good.clone(), 1 << 62, MAP_END),
        ("the next page is this one", good.clone(), 3, 2),
        ("the next page lies before", good.clone(), 3, 0),
        ("a block of the next page", good.clone(), 3, 3),
        ("no blocks, and no progress", Vec::new(), 0, 2),
        ("before the cursor", listed(&[(MIB, Kib4)]), 1, MAP_END),
        (
            "out of order",
            listed(&[(3 * MIB, Kib4), (2 * MIB, Kib4)]),
            2,
            MAP_END,
        ),
        (
            "twice",
            listed(&[(2 * MIB, Kib4), (2 * MIB, Kib4)]),
            2,
            MAP_END,
        ),
        (
            "overlapping",
            listed(&[(2 * MIB, Mib1), (2 * MIB + 4096, Kib4)]),
            2,
            MAP_END,
        ),
        ("misaligned", listed(&[(2 * MIB + 1, Kib4)]), 1, MAP_END),
        (
            "beyond all numbers",
            listed(&[(u64::MAX - 4095, Kib4)]),
            1,
            MAP_END,
        ),
        ("of no type", vec![0xff; 24], 1, MAP_END),
    ];
    for (what, bytes, count, next) in cases {
        let (_host, bdev) = answering(bytes, count, next);
        let error = bdev.list_blocks(PoolQuery::Local, from).expect_err(what);
        assert_eq!(error.status(), Status::ProtocolViolation, "{what}");
        assert!(error.to_string().contains("from megabyte 2 on"), "{error}");
    }
}

#[test]
fn impossible_pages_of_a_map_are_violations() {
    let _watchdog = Watchdog::start();
    let from = PageCursor::at_offset(2 * MIB);
    let ask = |bdev: &Client| {
        let task = bdev.async_map_page(PoolQuery::Local, from);
        task.wait()
    };
    for next in [6, MAP_END] {
        let (_host, bdev) = answering(vec![0, 1, 2, 3], 4, next);
        assert_eq!(ask(&bdev).expect("a page").states.len(), 4);
    }
    let cases = [
        ("more than the buffer holds", vec![], 1 << 40, MAP_END),
        ("no such state", vec![0, 4], 2, MAP_END),
        ("a gap", vec![0, 1], 2, 5),
        ("an overlap", vec![0, 1], 2, 3),
        ("no progress", vec![], 0, 2),
        ("backwards", vec![0, 1], 2, 0),
    ];
    for (what, bytes, count, next) in cases {
        let (_host, bdev) = answering(bytes, count, next);
        let error = ask(&bdev).expect_err(what);
        assert_eq!(error.status(), Status::ProtocolViolation, "{what}");
        let error = bdev.map(PoolQuery::Local).expect_err(what);
        assert_eq!(error.status(), Status::ProtocolViolation, "{what}");
    }
}
