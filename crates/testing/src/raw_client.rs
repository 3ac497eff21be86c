//! A client that speaks the bare protocol, so that it can break it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chimaera_proto::admin::{
    AttachPool, DestroyPool, GetOrCreatePool, ListPools, Method, PoolInfo, PoolList, RuntimeStatus,
};
use chimaera_proto::control::{self, ControlReply, ControlRequest};
use chimaera_proto::limits::{ADMIN_BUFFER_BYTES, DATA_OFFSET_BYTES};
use chimaera_proto::{
    Access, BufferRange, Completion, Descriptor, PoolId, PoolQuery, Status, codec,
};
use chimaera_shm::{Doorbell, Lane, PublishOrder, Segment, packet};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sizes::MIB;
use crate::time_limit::PATIENCE;

/// The size of a client's segment.
pub const SEGMENT_BYTES: u64 = 4 * MIB;

/// The number of a client's lane.
const LANE: u32 = 3;

/// The whole part of a segment that tasks of the admin module get.
const BUFFER: BufferRange = BufferRange {
    segment: 0,
    offset_bytes: DATA_OFFSET_BYTES as u64,
    len_bytes: ADMIN_BUFFER_BYTES,
    access: Access::ReadWrite,
};

/// A session with one lane, and what a test needs to break it.
#[derive(Debug)]
pub struct RawClient {
    /// The client's end of the connection.
    pub socket: OwnedFd,
    /// Its only segment.
    pub segment: Arc<Segment>,
    /// Its only lane.
    pub lane: Lane,
    /// Rings the lane's worker.
    pub bell: Doorbell,
    /// The sequence of the last task.
    pub sequence: u32,
}

impl RawClient {
    /// A session of a host's, over a socket that the host gave.
    ///
    /// # Panics
    /// If the host refuses it.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        let segment = Arc::new(Segment::create("test", SEGMENT_BYTES).expect("segment"));
        let (reply, _) = ask(&socket, &hello(), Some(&*segment));
        assert!(matches!(reply, ControlReply::Welcome { .. }), "{reply:?}");
        let (reply, bell) = ask(&socket, &ControlRequest::OpenLane { lane: LANE }, None);
        assert_eq!(reply, ControlReply::LaneOpened);
        let bell = Doorbell::from_host(bell.expect("a doorbell")).expect("a doorbell");
        let lane = segment.lane(LANE as usize);
        Self {
            socket,
            segment,
            lane,
            bell,
            sequence: 0,
        }
    }

    /// Submits a task, whose record must be free.
    pub fn publish(&mut self, task: &Descriptor) {
        self.sequence += 1;
        self.lane
            .publish(self.sequence, &task.to_words(self.sequence));
        if self.lane.must_ring(PublishOrder::Fence) {
            self.bell.ring();
        }
    }

    /// Submits a task and waits for it.
    ///
    /// # Panics
    /// If it does not complete within [`PATIENCE`].
    pub fn call(&mut self, task: &Descriptor) -> Completion {
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

    /// Calls the admin module with a request that is encoded already.
    ///
    /// # Panics
    /// If the task does not complete within [`PATIENCE`].
    pub fn admin_encoded(&mut self, method: Method, request: &[u8]) -> Completion {
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

    /// Calls the admin module. What it gives is read with [`Self::reply`].
    ///
    /// # Panics
    /// If the task does not complete within [`PATIENCE`].
    pub fn admin(&mut self, method: Method, request: &impl Serialize) -> Completion {
        let request = codec::encode(request).expect("encodes");
        self.admin_encoded(method, &request)
    }

    /// Makes a pool, or finds it. Gives the status if that fails.
    ///
    /// # Panics
    /// As [`Self::admin`].
    pub fn create_pool(&mut self, module: &str, name: &str, id: PoolId) -> Option<Status> {
        let request = GetOrCreatePool::new(module, name, id, Vec::new());
        status(&self.admin(Method::GetOrCreatePool, &request))
    }

    /// Creates a pool, or finds it. Gives the status and the reason if that fails.
    ///
    /// # Errors
    /// The host's refusal.
    ///
    /// # Panics
    /// As [`Self::admin`].
    pub fn get_or_create(
        &mut self,
        request: &GetOrCreatePool,
    ) -> Result<PoolInfo, (Status, String)> {
        let completion = self.admin(Method::GetOrCreatePool, request);
        match status(&completion) {
            None => Ok(self.reply(&completion)),
            Some(status) => Err((status, self.reason(&completion))),
        }
    }

    /// The pools that the client may know of, as far as they fit on a page.
    ///
    /// # Panics
    /// As [`Self::admin`].
    pub fn pools(&mut self) -> Vec<PoolInfo> {
        let completion = self.admin(Method::ListPools, &ListPools { after: None });
        let list: PoolList = self.reply(&completion);
        list.pools
    }

    /// Attaches to a pool. Gives the status if that fails.
    ///
    /// # Panics
    /// As [`Self::admin`].
    pub fn attach_pool(&mut self, module: &str, id: PoolId) -> Option<Status> {
        let request = AttachPool {
            pool: id.into(),
            module: module.to_owned(),
            incarnation: None,
        };
        status(&self.admin(Method::AttachPool, &request))
    }

    /// Destroys a pool. Gives the status if that fails.
    ///
    /// # Panics
    /// As [`Self::admin`].
    pub fn destroy_pool(&mut self, id: PoolId) -> Option<Status> {
        status(&self.admin(Method::DestroyPool, &DestroyPool { pool: id.into() }))
    }

    /// What the host says of itself.
    ///
    /// # Panics
    /// As [`Self::admin`], or if the host says nothing.
    pub fn runtime_status(&mut self) -> RuntimeStatus {
        let completion = self.admin(Method::GetStatus, &());
        assert_eq!(status(&completion), None);
        self.reply(&completion)
    }

    /// What a task of the admin module gave.
    ///
    /// # Panics
    /// If it is something else.
    #[must_use]
    pub fn reply<T: DeserializeOwned>(&self, completion: &Completion) -> T {
        codec::decode(&self.reply_bytes(completion)).expect("decodes")
    }

    /// Why a task of the admin module failed.
    ///
    /// # Panics
    /// If it is no text.
    #[must_use]
    pub fn reason(&self, completion: &Completion) -> String {
        String::from_utf8(self.reply_bytes(completion)).expect("a text")
    }

    /// Waits for the host to close the connection.
    ///
    /// # Panics
    /// If the socket fails.
    pub fn wait_for_end(&self) {
        while packet::receive(&self.socket).expect("receives").is_some() {}
    }

    fn reply_bytes(&self, completion: &Completion) -> Vec<u8> {
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
}

/// Sends a request and receives the reply to it, with the file beside it.
///
/// # Panics
/// If the connection ends, or something else is answered.
pub fn ask(
    socket: &OwnedFd,
    request: &ControlRequest,
    file: Option<&dyn AsFd>,
) -> (ControlReply, Option<OwnedFd>) {
    send(socket, 1, request, file);
    let (number, reply, file) = receive(socket);
    assert_eq!(number, 1, "{reply:?}");
    (reply, file)
}

/// Sends a request under a number.
///
/// # Panics
/// If the connection has ended.
pub fn send(socket: &OwnedFd, number: u64, request: &ControlRequest, file: Option<&dyn AsFd>) {
    let bytes = control::encode(number, request).expect("encodes");
    packet::send(socket, &bytes, file.map(|file| file.as_fd())).expect("sends");
}

/// Receives the next reply: the number of its request, the reply, and the file beside it.
///
/// # Panics
/// If the connection has ended, or no reply comes in.
#[must_use]
pub fn receive(socket: &OwnedFd) -> (u64, ControlReply, Option<OwnedFd>) {
    let packet = packet::receive(socket)
        .expect("receives")
        .expect("an answer");
    let (number, reply) = control::decode(&packet.bytes).expect("decodes");
    (number, reply, packet.file)
}

/// A client's first request.
#[must_use]
pub fn hello() -> ControlRequest {
    ControlRequest::Hello {
        client_name: "protocol test".to_owned(),
    }
}

/// A task that the admin module completes at once.
#[must_use]
pub fn ping() -> Descriptor {
    Descriptor {
        method: Method::Ping as u16,
        pool: PoolId::ADMIN,
        instance: 0,
        query: PoolQuery::Local,
        record: 0,
        buffer: None,
        arguments: [0; 3],
    }
}

/// The status of a task that failed.
#[must_use]
pub fn status(completion: &Completion) -> Option<Status> {
    completion.result().err().map(|failure| failure.status)
}
