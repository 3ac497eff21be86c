//! A host that completes each task at once: the other side of a client that goes on by single
//! instructions.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::thread;

use chimaera_proto::Descriptor;
use chimaera_proto::control::{self, ControlReply, ControlRequest};
use chimaera_proto::task::DESCRIPTOR_WORDS;
use chimaera_shm::{Doorbell, Lane, Segment, Taken, packet};

use crate::Result;

/// A host for one client with one lane, and with no module: every task succeeds, with no values.
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
        Ok(Self { lane, next: 1 })
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

fn serve_control(socket: &OwnedFd, lane: &OnceLock<Lane>) -> Result<()> {
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
                let segment = segment.as_ref().ok_or("a hello comes first")?;
                // This is the only lane, since the subject has one thread that submits.
                let _ = lane.set(segment.lane(index as usize));
                (ControlReply::LaneOpened, Some(doorbell.as_fd()))
            }
            ControlRequest::AddSegment { .. } => (ControlReply::SegmentAdded, None),
            ControlRequest::OfferFile { .. } => (ControlReply::FileOffered, None),
        };
        packet::send(socket, &control::encode(number, &reply)?, file)?;
    }
    Ok(())
}
