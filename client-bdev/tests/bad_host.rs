//! A host whose answers cannot be: none of them is believed.

#[path = "../../crates/client/tests/fake_host/mod.rs"]
mod fake_host;

use chimaera_bdev_client::{Block, BlockType, Client, PoolId, PoolQuery, Status};
use fake_host::{FakeHost, Verdict, Watchdog};

#[test]
fn impossible_answers_are_violations() {
    let _watchdog = Watchdog::new();
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
            .allocate_blocks(PoolQuery::Local, 9 << 20)
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
