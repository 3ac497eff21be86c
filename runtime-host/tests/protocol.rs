//! The host against a client that speaks the bare protocol, and breaks it where it can.

use std::os::fd::AsFd;
use std::time::Duration;

use chimaera_proto::admin::{FindPool, Method};
use chimaera_proto::control::{self, ControlReply, ControlRequest, NO_REQUEST};
use chimaera_proto::limits::{DATA_OFFSET_BYTES, LANE_DEPTH, LAYOUT_VERSION, PROTOCOL_VERSION};
use chimaera_proto::{Access, BufferRange, ContainerId, Descriptor, PoolId, PoolQuery, Status};
use chimaera_runtime::{Config, Host};
use chimaera_shm::{Doorbell, PublishOrder, Segment, packet};
use chimaera_testing::raw_client::{
    RawClient, SEGMENT_BYTES, ask, hello, ping, receive, send, status,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

fn host() -> Host {
    Host::start(&Config {
        worker_count: 2,
        ..Config::default()
    })
    .expect("the host starts")
}

#[test]
fn tasks_complete_on_a_lane_that_goes_round_and_parks_in_between() {
    let host = host();
    let mut client = RawClient::new(host.connect().expect("connects"));
    for round in 0..LANE_DEPTH * 5 {
        let record = (round % LANE_DEPTH) as u8;
        assert_eq!(client.call(&Descriptor { record, ..ping() }).status_word, 0);
        if round % 100 == 0 {
            // Long enough that the worker parks the lane; nothing depends on whether it does.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn admin_tasks_answer_in_their_buffer() {
    let host = host();
    let mut client = RawClient::new(host.connect().expect("connects"));
    let reply = client.runtime_status();
    assert_eq!(
        (reply.worker_count, reply.session_count, reply.pool_count),
        (2, 1, 0)
    );

    let pool = "absent".into();
    let completion = client.admin(Method::FindPool, &FindPool { pool });
    assert_eq!(status(&completion), Some(Status::PoolNotFound));
    let text = client.reason(&completion);
    assert!(
        text.starts_with("there is no pool named absent: "),
        "{text}"
    );

    let completion = client.admin_encoded(Method::FindPool, b"\xff\xff\xff");
    assert_eq!(status(&completion), Some(Status::InvalidArgument));
}

#[test]
fn tasks_that_name_what_is_not_there_are_refused_and_the_session_goes_on() {
    let host = host();
    let mut client = RawClient::new(host.connect().expect("connects"));
    let buffer = |segment, offset_bytes, len_bytes| {
        Some(BufferRange {
            segment,
            offset_bytes,
            len_bytes,
            access: Access::ReadWrite,
        })
    };
    let bad_buffers = [
        buffer(1, 0, 1),
        buffer(200, 0, 1),
        buffer(0, 0, 64),
        buffer(0, DATA_OFFSET_BYTES as u64 - 1, 64),
        buffer(0, SEGMENT_BYTES, 1),
        buffer(0, SEGMENT_BYTES - 1, 2),
        buffer(0, u64::MAX, u32::MAX),
    ];
    let cases = [
        (
            Descriptor {
                pool: PoolId::new(8000, 0),
                ..ping()
            },
            Status::PoolNotFound,
        ),
        (
            Descriptor {
                pool: PoolId::NULL,
                ..ping()
            },
            Status::PoolNotFound,
        ),
        (
            Descriptor {
                method: u16::MAX,
                ..ping()
            },
            Status::UnknownMethod,
        ),
        (
            Descriptor {
                query: PoolQuery::DirectId(ContainerId(1)),
                ..ping()
            },
            Status::ContainerNotFound,
        ),
        (
            Descriptor {
                method: Method::GetStatus as u16,
                ..ping()
            },
            Status::InvalidArgument,
        ),
    ];
    let bad_buffers =
        bad_buffers.map(|buffer| (Descriptor { buffer, ..ping() }, Status::InvalidBuffer));
    for (task, expected) in cases.into_iter().chain(bad_buffers) {
        assert_eq!(status(&client.call(&task)), Some(expected), "{task:?}");
        assert_eq!(status(&client.call(&ping())), None);
    }
}

#[test]
fn a_lane_that_breaks_the_protocol_ends_its_session_and_no_other() {
    let host = host();
    let mut good = RawClient::new(host.connect().expect("connects"));
    let faults: [fn(&mut RawClient); 3] = [
        // A sequence that is not next.
        |client| {
            client.sequence += LANE_DEPTH as u32;
            client.publish(&ping());
        },
        // A record that is not there.
        |client| {
            client.sequence += 1;
            let mut words = ping().to_words(client.sequence);
            words[3] = 64;
            client.lane.publish(client.sequence, &words);
            if client.lane.must_ring(PublishOrder::Fence) {
                client.bell.ring();
            }
        },
        // A request that is not known.
        |client| packet::send(&client.socket, b"GET / HTTP/1.1\r\n", None).expect("sends"),
    ];
    for fault in faults {
        let mut bad = RawClient::new(host.connect().expect("connects"));
        assert_eq!(status(&bad.call(&ping())), None);
        fault(&mut bad);
        if bad.sequence > 1 {
            bad.wait_for_end();
        } else {
            let answer = packet::receive(&bad.socket)
                .expect("receives")
                .expect("an answer");
            let reply = control::decode(&answer.bytes).expect("decodes");
            assert!(
                matches!(
                    reply,
                    (
                        NO_REQUEST,
                        ControlReply::Refused {
                            status: Status::ProtocolViolation,
                            ..
                        }
                    )
                ),
                "{reply:?}"
            );
        }
        assert_eq!(status(&good.call(&ping())), None);
    }
}

#[test]
fn what_is_no_hello_is_refused_with_a_reason() {
    let host = host();
    let refusal = |request: &ControlRequest, file: Option<&dyn AsFd>| {
        let socket = host.connect().expect("connects");
        let (reply, _) = ask(&socket, request, file);
        assert!(
            packet::receive(&socket).expect("receives").is_none(),
            "the session ends"
        );
        match reply {
            ControlReply::Refused { reason, .. } => reason,
            other => panic!("not refused: {other:?}"),
        }
    };
    assert!(refusal(&hello(), None).contains("without a segment"));
    assert!(refusal(&ControlRequest::OpenLane { lane: 0 }, None).contains("not a hello"));
    let program = std::fs::File::open("/proc/self/exe").expect("opens");
    assert!(refusal(&hello(), Some(&program)).contains("not ordinary shared memory"));

    let socket = host.connect().expect("connects");
    let bytes = control::encode_versions(1, &hello(), 99, 1).expect("encodes");
    packet::send(&socket, &bytes, None).expect("sends");
    let answer = packet::receive(&socket)
        .expect("receives")
        .expect("an answer");
    match control::decode(&answer.bytes).expect("decodes") {
        (NO_REQUEST, ControlReply::Refused { reason, .. }) => {
            let own = format!("this program speaks {PROTOCOL_VERSION} with {LAYOUT_VERSION}");
            for words in [
                "protocol version 99 with layout version 1",
                &own,
                "of one release",
            ] {
                assert!(reason.contains(words), "{reason}");
            }
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn lanes_and_segments_are_there_once_and_in_order() {
    let host = host();
    let client = RawClient::new(host.connect().expect("connects"));
    let reason = |request: &ControlRequest, file: Option<&dyn AsFd>| match ask(
        &client.socket,
        request,
        file,
    )
    .0
    {
        ControlReply::Refused { reason, .. } => reason,
        other => panic!("not refused: {other:?}"),
    };
    assert!(reason(&ControlRequest::OpenLane { lane: 64 }, None).contains("no lane 64"));
    let more = Segment::create("more", SEGMENT_BYTES).expect("segment");
    assert!(reason(&ControlRequest::AddSegment { segment: 2 }, Some(&more)).contains("number 1"));
    assert!(
        reason(&ControlRequest::AddSegment { segment: 1 }, None).contains("without its memory")
    );
    let (reply, _) = ask(
        &client.socket,
        &ControlRequest::AddSegment { segment: 1 },
        Some(&more),
    );
    assert_eq!(reply, ControlReply::SegmentAdded);
    let other = Segment::create("other", SEGMENT_BYTES).expect("segment");
    assert!(reason(&ControlRequest::AddSegment { segment: 1 }, Some(&other)).contains("number 2"));
    let program = std::fs::File::open("/proc/self/exe").expect("opens");
    assert!(
        reason(&ControlRequest::AddSegment { segment: 1 }, Some(&program)).contains("not ordinary")
    );
}

#[test]
fn a_request_that_is_repeated_is_answered_as_before_and_carried_out_once() {
    let host = host();
    let mut client = RawClient::new(host.connect().expect("connects"));
    for _ in 0..5 {
        let (reply, bell) = ask(&client.socket, &ControlRequest::OpenLane { lane: 3 }, None);
        assert_eq!(reply, ControlReply::LaneOpened);
        // Both answers have the same bell.
        let bell = Doorbell::from_host(bell.expect("a doorbell")).expect("a doorbell");
        client.bell.ring();
        let mut bells = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut bells, PollTimeout::ZERO), Ok(1));
        client.bell = bell;
    }
    // A second worker on the lane would find sequences that it does not expect, or complete twice.
    for round in 0..3 * LANE_DEPTH {
        let record = (round % LANE_DEPTH) as u8;
        assert_eq!(client.call(&Descriptor { record, ..ping() }).status_word, 0);
    }
    let more = Segment::create("more", SEGMENT_BYTES).expect("segment");
    for segment in [1, 1, 1] {
        let request = ControlRequest::AddSegment { segment };
        assert_eq!(
            ask(&client.socket, &request, Some(&more)).0,
            ControlReply::SegmentAdded
        );
    }
    let next = ControlRequest::AddSegment { segment: 2 };
    assert_eq!(
        ask(&client.socket, &next, Some(&more)).0,
        ControlReply::SegmentAdded
    );
}

#[test]
fn replies_name_their_requests_also_those_that_cannot_be_read() {
    let host = host();
    let client = RawClient::new(host.connect().expect("connects"));
    let numbers = [7, 3, u64::MAX];
    for number in numbers {
        send(
            &client.socket,
            number,
            &ControlRequest::OpenLane { lane: 64 },
            None,
        );
    }
    for number in numbers {
        let (answered, reply, _) = receive(&client.socket);
        assert_eq!(answered, number);
        assert!(matches!(reply, ControlReply::Refused { .. }), "{reply:?}");
    }
    let mut garbled = control::encode(11, &hello()).expect("encodes");
    garbled.push(0);
    packet::send(&client.socket, &garbled, None).expect("sends");
    let (answered, reply, _) = receive(&client.socket);
    assert_eq!(answered, 11);
    assert!(matches!(reply, ControlReply::Refused { .. }), "{reply:?}");
}

#[test]
fn a_host_that_stops_closes_its_sessions() {
    let host = host();
    let client = RawClient::new(host.connect().expect("connects"));
    drop(host);
    client.wait_for_end();
}

#[test]
fn a_second_host_on_a_socket_is_refused_and_a_socket_left_behind_is_not_in_the_way() {
    let folder = tempfile::tempdir().expect("folder");
    let socket = folder.path().join("deep/chimaera.sock");
    let config = Config {
        socket: Some(socket.clone()),
        ..Config::default()
    };
    let first = Host::start(&config).expect("starts");
    let error = Host::start(&config).err().expect("is refused").to_string();
    let named = format!(
        "another runtime with process id {} serves",
        std::process::id()
    );
    assert!(error.contains(&named), "{error}");
    drop(first);
    assert!(!socket.exists(), "nothing stays behind");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("binds"));
    drop(Host::start(&config).expect("starts over a dead socket"));
    std::fs::write(&socket, "not a socket").expect("writes");
    let error = Host::start(&config).err().expect("is refused").to_string();
    assert!(error.contains("is not a socket"), "{error}");
}
