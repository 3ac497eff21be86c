//! The control side of the fake host: requests of the client's, and what becomes of them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chimaera_proto::Status;
use chimaera_proto::control::{self, ControlReply, ControlRequest};
use chimaera_shm::{Segment, packet};

use super::{Fate, HostState};

/// A reply with the number of its request.
#[derive(Debug)]
pub(super) struct Answer {
    number: u64,
    reply: ControlReply,
}

impl HostState {
    /// Serves the client's end of the socket until it is closed.
    pub(super) fn serve_control(&self, socket: &OwnedFd) {
        while let Ok(Some(packet)) = packet::receive(socket) {
            let (number, request) = control::decode(&packet.bytes).expect("a request");
            let fate = self.fates.lock().pop_front();
            let number = match fate {
                None => number,
                Some(Fate::Numbered(other)) => other,
                Some(Fate::Lost) => continue,
                Some(Fate::Late) => {
                    let reply = self.carry_out(request, packet.file);
                    self.late_answers.lock().push(Answer { number, reply });
                    continue;
                }
                Some(Fate::Refused(status)) => {
                    let reply = ControlReply::Refused {
                        status,
                        reason: "not now: the test says so".to_owned(),
                    };
                    self.send(socket, &Answer { number, reply });
                    continue;
                }
            };
            let reply = self.carry_out(request, packet.file);
            self.send(socket, &Answer { number, reply });
        }
    }

    /// Sends an answer, unless the client is gone.
    pub(super) fn send(&self, socket: &OwnedFd, Answer { number, reply }: &Answer) {
        let (protocol, layout) = self.versions;
        let bytes = control::encode_versions(*number, reply, protocol, layout).expect("encodes");
        let doorbell = matches!(reply, ControlReply::LaneOpened).then(|| self.doorbell.as_fd());
        let _ = packet::send(socket, &bytes, doorbell);
    }

    fn carry_out(&self, request: ControlRequest, file: Option<OwnedFd>) -> ControlReply {
        match request {
            ControlRequest::Hello { client_name } => {
                assert!(!client_name.is_empty());
                if client_name == "refuse me" {
                    return ControlReply::Refused {
                        status: Status::PermissionDenied,
                        reason: "this client is not welcome: ask the operator".to_owned(),
                    };
                }
                self.add_segment(0, file);
                ControlReply::Welcome {
                    version: "fake".to_owned(),
                    process_id: std::process::id(),
                    worker_count: 1,
                    parks_with_barrier: false,
                }
            }
            ControlRequest::AddSegment { segment } => {
                self.add_segment(segment as usize, file);
                ControlReply::SegmentAdded
            }
            ControlRequest::OfferFile { .. } => {
                drop(file.expect("a file"));
                ControlReply::FileOffered
            }
            ControlRequest::OpenLane { lane } => {
                self.open_lane(lane);
                ControlReply::LaneOpened
            }
            ControlRequest::GetStatus { .. } | ControlRequest::Stop => ControlReply::Refused {
                status: Status::PermissionDenied,
                reason: "this host has no operators".to_owned(),
            },
        }
    }

    /// Has the worker serve a lane, once.
    fn open_lane(&self, lane: u32) {
        let opened = self.opened.fetch_or(1 << lane, Ordering::Relaxed);
        if opened & 1 << lane != 0 {
            return;
        }
        let segment = Arc::clone(&self.segments.lock()[0]);
        let mut lanes = self.lanes.lock();
        lanes.push(segment.lane(lane as usize));
        self.lane_count.store(lanes.len(), Ordering::Release);
        self.doorbell.ring();
    }

    /// Maps a segment, once.
    fn add_segment(&self, index: usize, file: Option<OwnedFd>) {
        let file = file.expect("a segment");
        let mut segments = self.segments.lock();
        if let Some(known) = segments.get(index) {
            assert!(known.is_memory_of(&file), "segment {index} is another");
            return;
        }
        let segment = Segment::receive(file).expect("a valid segment");
        assert_eq!(segments.len(), index);
        segments.push(Arc::new(segment));
    }
}
