//! Messages on a host's socket, with files beside them.

use std::os::fd::BorrowedFd;

use chimaera_proto::control::{ControlRequest, encode_versions};
use chimaera_proto::limits::{LAYOUT_VERSION, MAX_CONTROL_MESSAGE_BYTES, PROTOCOL_VERSION};
use chimaera_testing::raw_peer::{MAX_FILES_BESIDE, PeerAnswer, RawPeer};
use chimaera_testing::{FuzzInput, HostileFiles};

use super::Rig;
use super::attacker::outcome_of;

/// The most packets of an input.
const MAX_PACKETS: usize = 24;

/// A packet, a number for what it is, and the files that go with it.
fn packet<'a>(
    input: &mut FuzzInput<'_>,
    files: &'a HostileFiles,
) -> (Vec<u8>, u32, Vec<BorrowedFd<'a>>) {
    let kind = input.below(6);
    let request = match kind {
        0 => ControlRequest::Hello {
            client_name: "x".repeat(input.one_of(&[0, 1, 64, 300, 8000])),
        },
        1 => ControlRequest::OpenLane {
            lane: input.edge_u64() as u32,
        },
        2 => ControlRequest::AddSegment {
            segment: input.edge_u64() as u32,
        },
        3 => ControlRequest::OfferFile {
            number: input.edge_u64(),
        },
        4 => ControlRequest::OpenLane { lane: 0 },
        _ => {
            let len = input.below(MAX_CONTROL_MESSAGE_BYTES + 100);
            let mut bytes = input.bytes(255).to_vec();
            bytes.resize(len, 0);
            return (bytes, kind as u32, files_beside(input, files));
        }
    };
    let number = match input.once_in(4) {
        true => input.edge_u64(),
        false => 1,
    };
    let protocol = PROTOCOL_VERSION.wrapping_add(u32::from(input.once_in(16)));
    let layout = LAYOUT_VERSION.wrapping_sub(u32::from(input.once_in(16)));
    let mut bytes = encode_versions(number, &request, protocol, layout).expect("encodes");
    match input.below(8) {
        5 => bytes.truncate(input.below(bytes.len())),
        6 => bytes.extend_from_slice(input.bytes(16)),
        7 => {
            let at = input.below(bytes.len());
            bytes[at] ^= input.byte();
        }
        _ => {}
    }
    (bytes, kind as u32, files_beside(input, files))
}

fn files_beside<'a>(input: &mut FuzzInput<'_>, files: &'a HostileFiles) -> Vec<BorrowedFd<'a>> {
    let count = match input.below(8) {
        0..=2 => 0,
        3..=5 => 1,
        6 => input.below(8),
        _ => MAX_FILES_BESIDE - input.below(3),
    };
    let first = input.below(files.count());
    let numbers = first..first + count;
    numbers.map(|number| files.file(number)).collect()
}

fn run(rig: &Rig, files: &HostileFiles, input: &[u8]) -> Vec<u32> {
    let mut input = FuzzInput::new(input);
    let mut outcomes = Vec::new();
    let peer = RawPeer::connect(&rig.socket).expect("somebody listens");
    let peer = peer.expect("one connects at a time");
    for _ in 0..MAX_PACKETS {
        let (bytes, kind, beside) = packet(&mut input, files);
        if !peer.send(&bytes, &beside) {
            break;
        }
        // Every packet is answered, or ends the connection.
        let reply = match peer.receive() {
            PeerAnswer::Reply(_, reply) => Some(reply),
            PeerAnswer::NoReply => panic!("the host sends nonsense"),
            PeerAnswer::End => None,
        };
        let many = beside.len().min(2) as u32;
        outcomes.push(kind << 16 | many << 12 | outcome_of(reply.as_ref()));
        if reply.is_none() || input.has_ended() {
            break;
        }
    }
    outcomes
}

#[test]
fn whatever_messages_say_the_host_serves_on() {
    let files = HostileFiles::new();
    Rig::new().run("control", 10_000, |rig, input| run(rig, &files, input));
}
