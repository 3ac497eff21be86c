//! Buffers: alignment, reuse, growth, and whose they are.

mod support;

use std::collections::BTreeMap;
use std::thread;

use chimaera_client::proto::limits::MAX_SEGMENTS;
use chimaera_client::{Buffer, ConnectOptions, Runtime, Status};
use chimaera_testing::{FakeHost, MIB, Watchdog};
use support::{FILL, LOCATE, SUM, call, module, submit_buffer};

#[test]
fn buffers_are_aligned_as_promised_and_do_not_overlap() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    let lengths = [
        0,
        1,
        63,
        64,
        65,
        4095,
        4096,
        4097,
        65_536,
        1 << 20,
        (1 << 20) + 1,
        5 << 20,
    ];
    let mut buffers: Vec<Buffer> = Vec::new();
    let mut ranges = BTreeMap::new();
    for round in 0..10 {
        for len in lengths {
            let buffer = runtime.allocate_buffer(len).expect("buffer");
            assert_eq!(buffer.len(), len);
            assert!(buffer.capacity() >= len.max(1));
            let address = buffer.as_ptr() as usize;
            assert!(
                address.is_multiple_of(if len >= 4096 { 4096 } else { 64 }),
                "{len}"
            );
            ranges.insert(address, address + buffer.capacity());
            buffers.push(buffer);
        }
        assert_eq!(ranges.len(), (round + 1) * lengths.len());
    }
    let ranges: Vec<_> = ranges.into_iter().collect();
    assert!(
        ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0),
        "no two overlap"
    );
}

#[test]
fn what_is_freed_is_used_again() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    for round in 0..5000usize {
        let lengths = [100, 4096, 1 << 20, 6 << 20];
        let len = lengths[round % lengths.len()];
        drop(runtime.allocate_buffer(len).expect("buffer"));
    }
    // Buffers are freed in an order that leaves gaps, and in the end all are.
    for _ in 0..5 {
        let mut buffers: Vec<_> = (0..3000usize)
            .map(|n| Some(runtime.allocate_buffer(n * 7 % 5000).expect("buffer")))
            .collect();
        buffers
            .iter_mut()
            .step_by(2)
            .for_each(|buffer| drop(buffer.take()));
        let more: Vec<_> = (0..500)
            .map(|_| runtime.allocate_buffer(9000).expect("buffer"))
            .collect();
        drop((buffers, more));
        drop(
            runtime
                .allocate_buffer(6 << 20)
                .expect("the gaps came together"),
        );
    }
    assert_eq!(host.segment_count(), 2, "16 MiB do for most of this");
}

#[test]
fn a_full_segment_is_followed_by_another() {
    let _watchdog = Watchdog::start();
    let (host, runtime) = FakeHost::connect(module);
    let mut buffers = Vec::new();
    while host.segment_count() < 4 {
        buffers.push(runtime.allocate_buffer(1 << 20).expect("buffer"));
    }
    for (number, buffer) in (0..).zip(buffers) {
        let (_, buffer) = submit_buffer(&runtime, FILL, number, buffer)
            .wait()
            .expect("fills");
        assert!(
            buffer.iter().all(|&byte| byte == number as u8),
            "the host reaches it"
        );
    }
    // One that is larger than a segment gets one of its size, whatever that is.
    for len in [100 << 20, (65 << 20) + 4097, (1 << 30) + 1] {
        let buffer = runtime.allocate_buffer(len).expect("large");
        assert_eq!(buffer.len(), len);
    }
}

#[test]
fn the_last_segment_ends_in_an_error_that_says_so() {
    let _watchdog = Watchdog::start();
    let options = ConnectOptions::new().buffer_bytes(2 * MIB);
    let (host, runtime) = FakeHost::connect_with(options, module);
    let mut buffers = Vec::new();
    let error = loop {
        match runtime.allocate_buffer(2 << 20) {
            Ok(buffer) => buffers.push(buffer),
            Err(error) => break error,
        }
    };
    assert_eq!(host.segment_count(), MAX_SEGMENTS);
    assert_eq!(error.status(), Status::OutOfMemory);
    assert!(error.to_string().contains("64 segments"), "{error}");
    drop(buffers);
    runtime.allocate_buffer(2 << 20).expect("room again");
    let error = runtime
        .allocate_buffer(usize::MAX)
        .expect_err("no such memory");
    assert_eq!(error.status(), Status::OutOfMemory);
}

#[test]
fn parts_of_buffers_travel_alone() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    let mut buffer = runtime.allocate_buffer(1000).expect("buffer");
    buffer.fill(0);
    runtime
        .call_receiving(&call(FILL, 5), buffer.range_mut(10..20))
        .expect("fills");
    assert!(
        buffer
            .iter()
            .enumerate()
            .all(|(at, &byte)| byte == if (10..20).contains(&at) { 5 } else { 0 })
    );
    let sum = runtime.call_sending(&call(SUM, 0), buffer.range(..15).range(12..));
    assert_eq!(sum.expect("sums")[0], 15);
    let mut part = buffer.range_mut(..);
    part.range_mut(5..6)[0] = 1;
    assert_eq!((part.len(), part[5]), (1000, 1));

    buffer.set_len(16);
    let (len, buffer) = submit_buffer(&runtime, FILL, 6, buffer)
        .wait()
        .expect("fills");
    assert_eq!((len, buffer.len()), (16, 16));
    assert!(buffer.capacity() >= 1000);
}

#[test]
#[should_panic(expected = "range 5..1001 of a buffer of 1000 bytes")]
fn a_range_outside_panics_as_indexing_does() {
    let (_host, runtime) = FakeHost::connect(module);
    let buffer = runtime.allocate_buffer(1000).expect("buffer");
    let _ = buffer.range(5..=1000);
}

#[test]
fn a_buffer_of_another_connection_is_refused() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    let (_other_host, other) = FakeHost::connect(module);
    let mut buffer = other.allocate_buffer(10).expect("buffer");
    let error = runtime
        .call_receiving(&call(FILL, 1), (&mut buffer).into())
        .expect_err("foreign");
    assert_eq!(error.status(), Status::InvalidBuffer);
    assert!(error.to_string().contains("another connection"), "{error}");
    let error = runtime
        .submit(call(FILL, 1), Some(buffer), support::with_buffer)
        .wait()
        .expect_err("foreign");
    let buffer = error.into_buffer().expect("comes back");
    let (_, buffer) = submit_buffer(&other, FILL, 1, buffer)
        .wait()
        .expect("at home");
    assert_eq!(&buffer[..], &[1; 10]);
}

#[test]
fn buffers_can_be_made_and_freed_on_any_thread() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    let (sender, receiver) = std::sync::mpsc::sync_channel::<(u8, Buffer)>(100);
    thread::scope(|scope| {
        for thread in 0..4u8 {
            let (runtime, sender): (&Runtime, _) = (&runtime, sender.clone());
            scope.spawn(move || {
                for round in 0..2000usize {
                    let len = 1 + round * 37 % 9000;
                    let mut buffer = runtime.allocate_buffer(len).expect("buffer");
                    buffer.fill(thread);
                    sender.send((thread, buffer)).expect("sends");
                }
            });
        }
        drop(sender);
        for (thread, buffer) in receiver {
            assert!(
                buffer.iter().all(|&byte| byte == thread),
                "nobody else wrote there"
            );
        }
    });
}

#[test]
fn an_empty_buffer_lies_somewhere_too() {
    let _watchdog = Watchdog::start();
    let (_host, runtime) = FakeHost::connect(module);
    let buffer = runtime.allocate_buffer(0).expect("buffer");
    let (address, buffer) = submit_buffer(&runtime, LOCATE, 0, buffer)
        .wait()
        .expect("found");
    assert_ne!(address, 0);
    assert!(buffer.is_empty());
}
