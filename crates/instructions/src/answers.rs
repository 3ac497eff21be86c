//! A host that completes each task at once: the other side of a client that goes on by single
//! instructions.

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};
use std::thread;

use chimaera_proto::admin::{AttachPool, PoolInfo, PoolName};
use chimaera_proto::control::{self, ControlReply, ControlRequest};
use chimaera_proto::limits::LANE_DEPTH;
use chimaera_proto::task::DESCRIPTOR_WORDS;
use chimaera_proto::{Descriptor, Permissions, Rights, codec};
use chimaera_shm::{Doorbell, Lane, LaneMemory, Segment, Taken, packet};

use crate::Result;

/// A host for one client with one lane, and with no module: every task succeeds, with no values. The first one attaches
/// the client to its pool, and is answered at once, while the client is not stopped yet.
pub(crate) struct Answers {
    lane: Arc<OnceLock<Lane>>,
    /// The sequence that comes next.
    next: u64,
}

impl Answers {
    /// Serves the client at the other end of the socket, until that closes.
    pub(crate) fn start(socket: OwnedFd) -> Result<Self> {
        let lane = Arc::new(OnceLock::new());
        let opened = Arc::clone(&lane);
        thread::Builder::new().spawn(move || {
            // If this fails, the client says what it lacks.
            let _ = serve_control(&socket, &opened);
        })?;
        Ok(Self {
            lane,
            next: FIRST + 1,
        })
    }

    /// Completes the tasks that were published since the last call.
    pub(crate) fn complete_all(&mut self) {
        let Some(lane) = self.lane.get() else { return };
        let mut words = [0; DESCRIPTOR_WORDS];
        while lane.take(self.next, &mut words) == Taken::Task {
            let Ok(task) = Descriptor::parse(&words) else {
                return;
            };
            lane.complete(usize::from(task.record), self.next as u32, 0, &[0]);
            self.next += 1;
        }
    }
}

/// The sequence of a lane's first task.
const FIRST: u64 = 1;

/// Waits for the first task of a lane, and answers it.
fn answer_first(lane: &Lane, segment: &Segment) -> Result<()> {
    let mut words = [0; DESCRIPTOR_WORDS];
    while lane.take(FIRST, &mut words) != Taken::Task {
        thread::yield_now();
    }
    let task = Descriptor::parse(&words)?;
    let len_bytes = attach(segment, &task).ok_or("the first task attaches to a pool")?;
    let record = usize::from(task.record);
    lane.complete(record, FIRST as u32, 0, &[len_bytes]);
    LaneMemory::<LANE_DEPTH>::fence_before_looking();
    let (sleepers, _) = lane.look_for_waiters(1 << record);
    lane.wake_sleepers(sleepers);
    Ok(())
}

/// Tells the client that the pool is there to which it attaches. Gives the length of the reply, in bytes.
#[allow(unsafe_code)]
fn attach(segment: &Segment, task: &Descriptor) -> Option<u64> {
    let range = task.buffer?;
    let buffer = segment.range(range.offset_bytes, range.len_bytes.into())?;
    let mut request = vec![0; usize::try_from(task.arguments[0]).ok()?];
    if request.len() > range.len_bytes as usize {
        return None;
    }
    let target = NonNull::from(&mut request[..]).cast();
    // SAFETY: the range lies in the segment, which is mapped; the client waits for the answer and does not touch it.
    unsafe { buffer.copy_to_nonoverlapping(target, request.len()) };
    let asked: AttachPool = codec::decode(&request).ok()?;
    let PoolName::Id(id) = asked.pool.pool else {
        return None;
    };
    let info = PoolInfo {
        id,
        name: "pool".to_owned(),
        module: asked.module,
        created: false,
        opened: false,
        incarnation: 1,
        predecessor: None,
        instance: 1,
        permissions: Permissions::of_owner(0, 0),
        rights: Rights::ALL,
    };
    let reply = codec::encode(&info).ok()?;
    if reply.len() > range.len_bytes as usize {
        return None;
    }
    // SAFETY: as above.
    unsafe { buffer.copy_from_nonoverlapping(NonNull::from(&reply[..]).cast(), reply.len()) };
    Some(reply.len() as u64)
}

fn serve_control(socket: &OwnedFd, opened: &OnceLock<Lane>) -> Result<()> {
    let doorbell = Doorbell::new()?;
    let mut segment = None;
    while let Some(packet) = packet::receive(socket)? {
        let (number, request) = control::decode(&packet.bytes)?;
        let (reply, file) = match request {
            ControlRequest::Hello { .. } => {
                let file = packet.file.ok_or("a hello comes with a segment")?;
                segment = Some(Arc::new(Segment::receive(file)?));
                let welcome = ControlReply::Welcome {
                    version: "answers".to_owned(),
                    process_id: std::process::id(),
                    worker_count: 1,
                    parks_with_barrier: true,
                };
                (welcome, None)
            }
            ControlRequest::OpenLane { lane: index } => {
                let segment: &Arc<Segment> = segment.as_ref().ok_or("a hello comes first")?;
                let lane = segment.lane(index as usize);
                let opened_lane = control::encode(number, &ControlReply::LaneOpened)?;
                packet::send(socket, &opened_lane, Some(doorbell.as_fd()))?;
                answer_first(&lane, segment)?;
                // This is the only lane, since the subject has one thread that submits.
                let _ = opened.set(lane);
                continue;
            }
            ControlRequest::AddSegment { .. } => (ControlReply::SegmentAdded, None),
            ControlRequest::OfferFile { .. } => (ControlReply::FileOffered, None),
            ControlRequest::GetStatus { .. } | ControlRequest::Stop => {
                return Err("the subject is no operator\'s command".into());
            }
        };
        packet::send(socket, &control::encode(number, &reply)?, file)?;
    }
    Ok(())
}
