//! A lane without a connection: what happens when the half of the sequence that travels wraps.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use chimaera_proto::limits::MIN_SEGMENT_BYTES;
use chimaera_proto::{Descriptor, PoolId, PoolQuery};
use chimaera_shm::{Doorbell, Segment, Taken};

use crate::call::Call;
use crate::control::ControlSocket;
use crate::lane::{ATTACHED, ClientLane, OWNED};
use crate::link::Link;
use crate::waiting::Patience;

#[test]
fn sequences_wrap_without_mistaking_one_task_for_another() {
    let segment = Arc::new(Segment::create("test", MIN_SEGMENT_BYTES).expect("segment"));
    let (ours, _theirs) = UnixStream::pair().expect("socket pair");
    let control = ControlSocket::from_socket(OwnedFd::from(ours)).expect("socket");
    let link = Link::new(control, Arc::clone(&segment), None).expect("link");
    let lane = ClientLane::new(
        0,
        Arc::clone(&segment),
        Doorbell::new().expect("bell"),
        Patience::new(Duration::from_micros(10)),
        Arc::new(link),
    );
    let first = (1 << 32) - 100;
    lane.begin_at(first);
    let (memory, done) = (segment.lane(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = first;
            while !done.load(Ordering::Acquire) {
                // An entry that no lap has used yet does not hold what it would hold here.
                if let Taken::Task(words) = memory.take(next) {
                    let task = Descriptor::parse(&words).expect("a descriptor");
                    memory.complete(task.record.into(), next as u32, 0, &task.arguments);
                    next += 1;
                    memory.wake_sleepers(u64::MAX);
                }
                thread::yield_now();
            }
        });
        let mut attached = Vec::new();
        for number in 0..1000 {
            let call = Call {
                pool: PoolId::ADMIN,
                query: PoolQuery::Local,
                method: 0,
                arguments: [number, 0, 0],
            };
            let flight = lane.submit(&call, None, OWNED).expect("submits");
            assert_eq!(lane.finish_owned(flight).values[0], number);
            // Some records are used again only a lap of sequences later.
            if number < 20 {
                attached.push(lane.submit(&call, None, ATTACHED).expect("submits"));
            }
        }
        for (number, flight) in (0..).zip(attached) {
            while !lane.is_complete(flight) {
                thread::yield_now();
            }
            let crate::desk::TakenUp::Owned = lane.take_up(flight, false) else {
                panic!("nothing was harvested");
            };
            assert_eq!(lane.retire(flight).values[0], number);
        }
        done.store(true, Ordering::Release);
    });
    // Nobody completes these. The records that were never used hold 0, as this one's sequence
    // does where it travels: that must not look like its completion.
    for step in 0..64 {
        lane.begin_at((7 << 32) + step);
        let flight = lane.submit(&PING, None, OWNED).expect("submits");
        assert!(!memory.is_complete(flight.record, flight.wire()), "{step}");
    }
}

const PING: Call = Call {
    pool: PoolId::ADMIN,
    query: PoolQuery::Local,
    method: 0,
    arguments: [0; 3],
};
