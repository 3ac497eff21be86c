//! The host against a client that speaks the bare protocol, and breaks it where it can.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chimaera_proto::admin::{FindPool, Method, RuntimeStatus};
use chimaera_proto::control::{self, Reply, Request};
use chimaera_proto::limits::{ADMIN_BUFFER_BYTES, DATA_OFFSET_BYTES, LANE_DEPTH};
use chimaera_proto::{
    Access, BufferRange, Completion, ContainerId, Descriptor, PoolId, PoolQuery, Status, codec,
};
use chimaera_runtime::{Config, Host};
use chimaera_shm::{Doorbell, Lane, Segment, packet};

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

const SEGMENT_BYTES: u64 = 4 << 20;

fn host() -> Host {
    Host::start(&Config {
        worker_count: 2,
        ..Config::default()
    })
    .expect("the host starts")
}

fn ask(socket: &OwnedFd, request: &Request, file: Option<&dyn AsFd>) -> (Reply, Option<OwnedFd>) {
    let bytes = control::encode(request).expect("encodes");
    packet::send(socket, &bytes, file.map(|file| file.as_fd())).expect("sends");
    let packet = packet::receive(socket)
        .expect("receives")
        .expect("an answer");
    (
        control::decode(&packet.bytes).expect("decodes"),
        packet.file,
    )
}

fn hello() -> Request {
    Request::Hello {
        client_name: "protocol test".to_owned(),
    }
}

/// A session with one lane.
struct Client {
    socket: OwnedFd,
    segment: Arc<Segment>,
    lane: Lane,
    bell: Doorbell,
    sequence: u32,
}

impl Client {
    fn new(host: &Host) -> Self {
        let socket = host.connect().expect("connects");
        let segment = Arc::new(Segment::create("test", SEGMENT_BYTES).expect("segment"));
        let (reply, _) = ask(&socket, &hello(), Some(&*segment));
        assert!(
            matches!(
                reply,
                Reply::Welcome {
                    worker_count: 2,
                    ..
                }
            ),
            "{reply:?}"
        );
        let (reply, bell) = ask(&socket, &Request::OpenLane { lane: 3 }, None);
        assert_eq!(reply, Reply::LaneOpened);
        let bell = Doorbell::from_host(bell.expect("a doorbell"));
        let lane = segment.lane(3);
        Self {
            socket,
            segment,
            lane,
            bell,
            sequence: 0,
        }
    }

    fn publish(&mut self, task: &Descriptor) {
        self.sequence += 1;
        self.lane
            .publish(self.sequence, &task.to_words(self.sequence));
        if self.lane.must_ring() {
            self.bell.ring();
        }
    }

    fn call(&mut self, task: &Descriptor) -> Completion {
        self.publish(task);
        let deadline = Instant::now() + PATIENCE;
        let record = usize::from(task.record);
        while !self.lane.is_complete(record, self.sequence) {
            assert!(Instant::now() < deadline, "the task does not complete");
            self.lane
                .sleep(record, self.sequence, Some(Duration::from_millis(100)));
        }
        self.lane.completion(record)
    }

    fn admin(&mut self, method: Method, request: &[u8]) -> Completion {
        let target = self.buffer(request.len());
        // SAFETY: the range is mapped, and the host does not look at it before the task.
        unsafe { std::ptr::copy_nonoverlapping(request.as_ptr(), target, request.len()) };
        self.call(&Descriptor {
            method: method as u16,
            buffer: Some(BUFFER),
            arguments: [request.len() as u64, 0, 0],
            ..ping()
        })
    }

    fn reply(&self, completion: &Completion) -> Vec<u8> {
        let len = completion.values[0] as usize;
        let mut bytes = vec![0; len];
        // SAFETY: the range is mapped, and the host is done with it.
        unsafe { std::ptr::copy_nonoverlapping(self.buffer(len), bytes.as_mut_ptr(), len) };
        bytes
    }

    fn buffer(&self, len: usize) -> *mut u8 {
        let range = self.segment.range(DATA_OFFSET_BYTES as u64, len as u64);
        range.expect("within the segment").as_ptr()
    }

    /// Waits for the host to close the connection.
    fn wait_for_end(&self) {
        while packet::receive(&self.socket).expect("receives").is_some() {}
    }
}

const BUFFER: BufferRange = BufferRange {
    segment: 0,
    offset_bytes: DATA_OFFSET_BYTES as u64,
    len_bytes: ADMIN_BUFFER_BYTES,
    access: Access::ReadWrite,
};

fn ping() -> Descriptor {
    Descriptor {
        method: Method::Ping as u16,
        pool: PoolId::ADMIN,
        query: PoolQuery::Local,
        record: 0,
        buffer: None,
        arguments: [0; 3],
    }
}

fn status(completion: &Completion) -> Option<Status> {
    completion.result().err().map(|failure| failure.status)
}

#[test]
fn tasks_complete_on_a_lane_that_goes_round_and_parks_in_between() {
    let host = host();
    let mut client = Client::new(&host);
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
    let mut client = Client::new(&host);
    let completion = client.admin(Method::GetStatus, &codec::encode(&()).expect("encodes"));
    assert_eq!(status(&completion), None);
    let reply: RuntimeStatus = codec::decode(&client.reply(&completion)).expect("decodes");
    assert_eq!(
        (reply.worker_count, reply.session_count, reply.pool_count),
        (2, 1, 0)
    );

    let request = codec::encode(&FindPool {
        name: "absent".to_owned(),
    })
    .expect("encodes");
    let completion = client.admin(Method::FindPool, &request);
    assert_eq!(status(&completion), Some(Status::PoolNotFound));
    let text = String::from_utf8(client.reply(&completion)).expect("text");
    assert_eq!(text, "there is no pool named absent");

    let completion = client.admin(Method::FindPool, b"\xff\xff\xff");
    assert_eq!(status(&completion), Some(Status::InvalidArgument));
}

#[test]
fn tasks_that_name_what_is_not_there_are_refused_and_the_session_goes_on() {
    let host = host();
    let mut client = Client::new(&host);
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
    let mut good = Client::new(&host);
    let faults: [fn(&mut Client); 3] = [
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
            if client.lane.must_ring() {
                client.bell.ring();
            }
        },
        // A request that is not known.
        |client| packet::send(&client.socket, b"GET / HTTP/1.1\r\n", None).expect("sends"),
    ];
    for fault in faults {
        let mut bad = Client::new(&host);
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
                    Reply::Refused {
                        status: Status::ProtocolViolation,
                        ..
                    }
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
    let refusal = |request: &Request, file: Option<&dyn AsFd>| {
        let socket = host.connect().expect("connects");
        let (reply, _) = ask(&socket, request, file);
        assert!(
            packet::receive(&socket).expect("receives").is_none(),
            "the session ends"
        );
        match reply {
            Reply::Refused { reason, .. } => reason,
            other => panic!("not refused: {other:?}"),
        }
    };
    assert!(refusal(&hello(), None).contains("without a segment"));
    assert!(refusal(&Request::OpenLane { lane: 0 }, None).contains("not a hello"));
    let program = std::fs::File::open("/proc/self/exe").expect("opens");
    assert!(refusal(&hello(), Some(&program)).contains("not ordinary shared memory"));

    let socket = host.connect().expect("connects");
    let bytes = control::encode_versions(&hello(), 99, 1).expect("encodes");
    packet::send(&socket, &bytes, None).expect("sends");
    let answer = packet::receive(&socket)
        .expect("receives")
        .expect("an answer");
    match control::decode(&answer.bytes).expect("decodes") {
        Reply::Refused { reason, .. } => {
            assert!(reason.contains("protocol version 99"), "{reason}");
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn lanes_and_segments_are_opened_once_and_in_order() {
    let host = host();
    let client = Client::new(&host);
    let reason =
        |request: &Request, file: Option<&dyn AsFd>| match ask(&client.socket, request, file).0 {
            Reply::Refused { reason, .. } => reason,
            other => panic!("not refused: {other:?}"),
        };
    assert!(reason(&Request::OpenLane { lane: 3 }, None).contains("open already"));
    assert!(reason(&Request::OpenLane { lane: 64 }, None).contains("no lane 64"));
    let more = Segment::create("more", SEGMENT_BYTES).expect("segment");
    assert!(reason(&Request::AddSegment { segment: 2 }, Some(&more)).contains("number 1"));
    assert!(reason(&Request::AddSegment { segment: 1 }, None).contains("without its memory"));
    let (reply, _) = ask(
        &client.socket,
        &Request::AddSegment { segment: 1 },
        Some(&more),
    );
    assert_eq!(reply, Reply::SegmentAdded);
    assert!(reason(&Request::AddSegment { segment: 1 }, Some(&more)).contains("number 2"));
}

#[test]
fn a_host_that_stops_closes_its_sessions() {
    let host = host();
    let client = Client::new(&host);
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
    assert!(error.contains("another runtime serves"), "{error}");
    drop(first);
    assert!(!socket.exists(), "nothing stays behind");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("binds"));
    drop(Host::start(&config).expect("starts over a dead socket"));
    std::fs::write(&socket, "not a socket").expect("writes");
    let error = Host::start(&config).err().expect("is refused").to_string();
    assert!(error.contains("is not a socket"), "{error}");
}
