//! What clients ask for: segments to be mapped, and lanes to be served.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use chimaera_proto::Status;
use chimaera_proto::limits::MAX_LANES;
use chimaera_shm::{Doorbell, Segment, SegmentError, Shortage};

use super::refusal::Refusal;
use super::{OpenLane, OpenSession};
use crate::control_side::ControlSide;
use crate::messages::WorkerCommand;
use crate::session::Peer;

/// Maps the segment beside a request. Leaves a file that is none.
pub(super) fn receive_segment(
    files: &mut Vec<OwnedFd>,
    missing: &str,
    client: Peer,
) -> Result<Segment, Refusal> {
    let violation = |reason: String| Refusal::new(Status::ProtocolViolation, reason);
    let file = files.pop().ok_or_else(|| violation(missing.to_owned()))?;
    Segment::receive(file).map_err(|refused| {
        files.push(refused.file);
        match &refused.error {
            SegmentError::Map(error) if Shortage::of(error).is_some() => {
                Refusal::of_system(error, "the segment", client)
            }
            error => violation(error.to_string()),
        }
    })
}

/// Hands a lane to the worker with the fewest, unless one has it.
pub(super) fn open_lane(
    client: &mut OpenSession,
    lane: u32,
    load: &mut [usize],
    shared: &ControlSide,
) -> Result<Arc<Doorbell>, Refusal> {
    let index = lane as usize;
    if index >= MAX_LANES {
        let reason = format!("there is no lane {lane}: a session has {MAX_LANES}");
        return Err(Refusal::new(Status::InvalidArgument, reason));
    }
    if let Some(open) = client.lanes.iter().find(|open| open.index == index) {
        return Ok(Arc::clone(&open.bell));
    }
    let bell = Doorbell::new().map(Arc::new);
    let peer = client.session.peer;
    let bell = bell.map_err(|error| Refusal::of_system(&error, "a doorbell", peer))?;
    let worker = (0..load.len())
        .min_by_key(|&worker| load[worker])
        .expect("a host has workers");
    load[worker] += 1;
    client.lanes.push(OpenLane {
        index,
        worker,
        bell: Arc::clone(&bell),
    });
    shared.router.inboxes[worker].send(WorkerCommand::AddLane {
        session: Arc::clone(&client.session),
        lane: client.session.first_segment().lane(index),
        bell: Arc::clone(&bell),
    });
    Ok(bell)
}
