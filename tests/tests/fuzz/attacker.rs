//! A user's client that sends what it likes and goes on as long as the host lets it.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chimaera_proto::admin::Method;
use chimaera_proto::control::{ControlReply, ControlRequest};
use chimaera_proto::limits::{ADMIN_BUFFER_BYTES, DATA_OFFSET_BYTES, LANE_DEPTH};
use chimaera_proto::task::{DESCRIPTOR_WORDS, Unvalidated, VALUE_COUNT};
use chimaera_proto::{Access, BufferRange, Completion, Descriptor, Status, codec};
use chimaera_shm::{Doorbell, Lane, PublishOrder, Segment};
use chimaera_testing::PATIENCE;
use chimaera_testing::raw_client::{SEGMENT_BYTES, hello, ping};
use chimaera_testing::raw_peer::{PeerAnswer, RawPeer};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{read, write};

/// What came of a task.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TaskAnswer {
    /// It has completed.
    Task(Completion),
    /// The session has ended.
    End,
}

impl TaskAnswer {
    /// A number for what happened: 0 for the session's end, 1 for a task that was done, others for how it failed.
    pub(crate) fn outcome(&self) -> u32 {
        match self {
            Self::End => 0,
            Self::Task(done) => match done.result() {
                Ok(_) => 1,
                Err(failure) => 2 + u32::from(failure.status.code()),
            },
        }
    }

    /// What a task gave that was done.
    pub(crate) fn values(&self) -> Option<[u64; VALUE_COUNT]> {
        match self {
            Self::Task(done) if done.result().is_ok() => Some(done.values),
            _ => None,
        }
    }
}

/// A session with one lane.
pub(crate) struct Attacker {
    pub(crate) peer: RawPeer,
    pub(crate) segment: Arc<Segment>,
    lane: Lane,
    bell: Doorbell,
    sequence: u32,
    requests: u64,
}

impl Attacker {
    /// A session at a host's socket for users.
    pub(crate) fn new(socket: &Path) -> Self {
        let peer = RawPeer::connect(socket).expect("somebody listens");
        let peer = peer.expect("few connect at a time");
        let segment = Segment::create("attacker", SEGMENT_BYTES).expect("a segment");
        peer.request(1, &hello(), &[segment.as_fd()]);
        let PeerAnswer::Reply(1, ControlReply::Welcome { .. }) = peer.receive() else {
            panic!("not welcomed");
        };
        peer.request(2, &ControlRequest::OpenLane { lane: 0 }, &[]);
        let bell = peer.receive_with_file();
        let segment = Arc::new(segment);
        Self {
            peer,
            lane: segment.lane(0),
            segment,
            bell: Doorbell::from_host(bell.expect("a doorbell")).expect("a doorbell"),
            sequence: 0,
            requests: 2,
        }
    }

    /// Sends a request and gives the reply; `None` if the session has ended.
    pub(crate) fn ask(
        &mut self,
        request: &ControlRequest,
        files: &[BorrowedFd<'_>],
    ) -> Option<ControlReply> {
        self.requests += 1;
        self.peer.request(self.requests, request, files);
        match self.peer.receive() {
            PeerAnswer::Reply(_, reply) => Some(reply),
            PeerAnswer::NoReply => panic!("the host sends nonsense"),
            PeerAnswer::End => None,
        }
    }

    /// Publishes any words as the next task, with a sequence that is so many rounds of the lane too large. Gives the
    /// record and the sequence to wait for.
    pub(crate) fn publish(
        &mut self,
        words: &[u64; DESCRIPTOR_WORDS],
        rounds_ahead: u32,
    ) -> (usize, u32) {
        self.sequence += 1;
        let ahead = rounds_ahead.wrapping_mul(LANE_DEPTH as u32);
        let sequence = self.sequence.wrapping_add(ahead);
        let mut words = *words;
        words[0] = words[0] & !u64::from(u32::MAX) | u64::from(sequence);
        self.lane.publish(sequence, &words);
        if self.lane.must_ring(PublishOrder::Fence) {
            self.bell.ring();
        }
        // A record that is none has no flag to wait for: the session ends.
        let record = usize::from(Unvalidated(&words).record()) % LANE_DEPTH;
        (record, sequence)
    }

    /// Waits for a task, or the end of the session.
    ///
    /// # Panics
    /// If neither comes.
    pub(crate) fn wait(&mut self, (record, sequence): (usize, u32)) -> TaskAnswer {
        let deadline = Instant::now() + PATIENCE;
        while !self.lane.is_complete(record, sequence) {
            match self.peer.try_receive() {
                Some(PeerAnswer::End) => return TaskAnswer::End,
                // That the session is about to end, and why.
                Some(_) => {}
                None => {
                    let pause = Some(Duration::from_millis(1));
                    self.lane.sleep(record, sequence, pause);
                }
            }
            assert!(Instant::now() < deadline, "neither an answer nor an end");
        }
        TaskAnswer::Task(self.lane.completion(record))
    }

    /// Carries out a task.
    pub(crate) fn call(&mut self, task: &Descriptor) -> TaskAnswer {
        let published = self.publish(&task.to_words(0), 0);
        self.wait(published)
    }

    /// Calls the admin module.
    pub(crate) fn admin(&mut self, method: Method, request: &impl Serialize) -> TaskAnswer {
        let request = codec::encode(request).expect("encodes");
        self.admin_encoded(method as u16, &request)
    }

    /// What a task of the admin module gave that was done.
    ///
    /// # Panics
    /// If it is something else.
    pub(crate) fn reply<T: DeserializeOwned>(&self, answered: &TaskAnswer) -> T {
        let [len, ..] = answered.values().expect("it was done");
        let mut bytes = vec![0; len as usize];
        read(&self.segment, DATA_OFFSET_BYTES as u64, &mut bytes);
        codec::decode(&bytes).expect("decodes")
    }

    /// Calls the admin module with any bytes.
    pub(crate) fn admin_encoded(&mut self, method: u16, request: &[u8]) -> TaskAnswer {
        write(&self.segment, DATA_OFFSET_BYTES as u64, request);
        self.call(&Descriptor {
            method,
            buffer: Some(BufferRange {
                segment: 0,
                offset_bytes: DATA_OFFSET_BYTES as u64,
                len_bytes: ADMIN_BUFFER_BYTES,
                access: Access::ReadWrite,
            }),
            arguments: [request.len() as u64, 0, 0],
            ..ping()
        })
    }
}

/// A number for a reply to a message, or for the end of the connection.
pub(crate) fn outcome_of(reply: Option<&ControlReply>) -> u32 {
    match reply {
        None => 0,
        Some(ControlReply::Refused { status, .. }) => 100 + u32::from(Status::code(*status)),
        // The others differ by their requests.
        Some(_) => 1,
    }
}
