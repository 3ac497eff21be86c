//! A client that speaks the bare protocol, so that it can break it.

#![allow(dead_code, reason = "each test uses its part")]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chimaera_proto::admin::Method;
use chimaera_proto::control::{self, ControlReply, ControlRequest};
use chimaera_proto::limits::{ADMIN_BUFFER_BYTES, DATA_OFFSET_BYTES};
use chimaera_proto::{Access, BufferRange, Completion, Descriptor, PoolId, PoolQuery, Status};
use chimaera_runtime::Host;
use chimaera_shm::{Doorbell, Lane, PublishOrder, Segment, packet};

/// Longer than anything here takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const SEGMENT_BYTES: u64 = 4 << 20;

pub(crate) fn ask(
    socket: &OwnedFd,
    request: &ControlRequest,
    file: Option<&dyn AsFd>,
) -> (ControlReply, Option<OwnedFd>) {
    send(socket, 1, request, file);
    let (number, reply, file) = receive(socket);
    assert_eq!(number, 1, "{reply:?}");
    (reply, file)
}

pub(crate) fn send(
    socket: &OwnedFd,
    number: u64,
    request: &ControlRequest,
    file: Option<&dyn AsFd>,
) {
    let bytes = control::encode(number, request).expect("encodes");
    packet::send(socket, &bytes, file.map(|file| file.as_fd())).expect("sends");
}

pub(crate) fn receive(socket: &OwnedFd) -> (u64, ControlReply, Option<OwnedFd>) {
    let packet = packet::receive(socket)
        .expect("receives")
        .expect("an answer");
    let (number, reply) = control::decode(&packet.bytes).expect("decodes");
    (number, reply, packet.file)
}

pub(crate) fn hello() -> ControlRequest {
    ControlRequest::Hello {
        client_name: "protocol test".to_owned(),
    }
}

/// A session with one lane.
pub(crate) struct Client {
    pub(crate) socket: OwnedFd,
    pub(crate) segment: Arc<Segment>,
    pub(crate) lane: Lane,
    pub(crate) bell: Doorbell,
    pub(crate) sequence: u32,
}

impl Client {
    pub(crate) fn new(host: &Host) -> Self {
        let socket = host.connect().expect("connects");
        let segment = Arc::new(Segment::create("test", SEGMENT_BYTES).expect("segment"));
        let (reply, _) = ask(&socket, &hello(), Some(&*segment));
        assert!(matches!(reply, ControlReply::Welcome { .. }), "{reply:?}");
        let (reply, bell) = ask(&socket, &ControlRequest::OpenLane { lane: 3 }, None);
        assert_eq!(reply, ControlReply::LaneOpened);
        let bell = Doorbell::from_host(bell.expect("a doorbell")).expect("a doorbell");
        let lane = segment.lane(3);
        Self {
            socket,
            segment,
            lane,
            bell,
            sequence: 0,
        }
    }

    pub(crate) fn publish(&mut self, task: &Descriptor) {
        self.sequence += 1;
        self.lane
            .publish(self.sequence, &task.to_words(self.sequence));
        if self.lane.must_ring(PublishOrder::Fence) {
            self.bell.ring();
        }
    }

    pub(crate) fn call(&mut self, task: &Descriptor) -> Completion {
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

    pub(crate) fn admin(&mut self, method: Method, request: &[u8]) -> Completion {
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

    pub(crate) fn reply(&self, completion: &Completion) -> Vec<u8> {
        let len = completion.values[0] as usize;
        let mut bytes = vec![0; len];
        // SAFETY: the range is mapped, and the host is done with it.
        unsafe { std::ptr::copy_nonoverlapping(self.buffer(len), bytes.as_mut_ptr(), len) };
        bytes
    }

    pub(crate) fn buffer(&self, len: usize) -> *mut u8 {
        let range = self.segment.range(DATA_OFFSET_BYTES as u64, len as u64);
        range.expect("within the segment").as_ptr()
    }

    /// Waits for the host to close the connection.
    pub(crate) fn wait_for_end(&self) {
        while packet::receive(&self.socket).expect("receives").is_some() {}
    }
}

pub(crate) const BUFFER: BufferRange = BufferRange {
    segment: 0,
    offset_bytes: DATA_OFFSET_BYTES as u64,
    len_bytes: ADMIN_BUFFER_BYTES,
    access: Access::ReadWrite,
};

pub(crate) fn ping() -> Descriptor {
    Descriptor {
        method: Method::Ping as u16,
        pool: PoolId::ADMIN,
        query: PoolQuery::Local,
        record: 0,
        buffer: None,
        arguments: [0; 3],
    }
}

pub(crate) fn status(completion: &Completion) -> Option<Status> {
    completion.result().err().map(|failure| failure.status)
}
