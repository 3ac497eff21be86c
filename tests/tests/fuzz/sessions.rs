//! Whole sessions: several clients that create, share, use, change and destroy pools, rightly or nearly so, and leave
//! at any moment.

use std::os::fd::AsFd;
use std::sync::Arc;

use chimaera_bdev_proto::{Block, MODULE_NAME, Method as BdevMethod};
use chimaera_proto::admin::{
    AttachPool, DestroyPool, FindPool, FlushPools, GetOrCreatePool, ListPools, Method, PoolChoice,
    SetPermissions,
};
use chimaera_proto::control::ControlRequest;
use chimaera_proto::limits::DATA_OFFSET_BYTES;
use chimaera_proto::{PoolId, codec};
use chimaera_testing::{FuzzInput, HostileFiles};

use super::attacker::{Attacker, TaskAnswer, outcome_of};
use super::descriptors::some_task;
use super::{Rig, in_memory};

/// Clients at a time.
const CLIENTS: usize = 4;

/// Pools that they fight over.
const POOLS: [PoolId; 3] = [
    PoolId::new(8000, 1),
    PoolId::new(8000, 2),
    PoolId::new(8000, 3),
];

/// The most steps of an input.
const MAX_STEPS: usize = 60;

#[derive(Default)]
struct Clients {
    sessions: [Option<Attacker>; CLIENTS],
    /// Blocks that somebody was given, which may have been freed since.
    blocks: Vec<Block>,
}

impl Clients {
    /// Does something. Gives a number for what came of it.
    fn step(&mut self, rig: &Rig, files: &HostileFiles, input: &mut FuzzInput<'_>) -> u32 {
        let client = input.below(CLIENTS);
        let kind = input.below(16) as u32;
        let Some(session) = &mut self.sessions[client] else {
            self.sessions[client] = Some(Attacker::new(&rig.socket));
            return 0;
        };
        let answered = match kind {
            0 => {
                // With tasks in flight, or with messages that it does not wait for.
                if input.once_in(2) {
                    let request = ControlRequest::OfferFile { number: 1 };
                    let file = files.file(input.below(files.count()));
                    session.peer.request(99, &request, &[file]);
                }
                self.sessions[client] = None;
                return 1;
            }
            1 => {
                let reply = message(session, files, input);
                if reply == 0 {
                    self.sessions[client] = None;
                }
                return 1 << 16 | reply;
            }
            2..=8 => manage(session, kind, input),
            9 => {
                // Several that are left in flight.
                for _ in 0..=input.below(8) {
                    let words = some_task(input, &POOLS, &self.blocks);
                    session.publish(&words, 0);
                }
                return 2;
            }
            _ => {
                let words = some_task(input, &POOLS, &self.blocks);
                let is_allocation = (words[0] >> 32) as u16 == BdevMethod::AllocateBlocks as u16;
                let task = session.publish(&words, 0);
                let answered = session.wait(task);
                if let (true, Some(values)) = (is_allocation, answered.values()) {
                    let found = values[1..].chunks_exact(2).take(values[0] as usize);
                    let found = found.flat_map(|words| Block::from_words([words[0], words[1]]));
                    self.blocks.extend(found);
                }
                answered
            }
        };
        if matches!(answered, TaskAnswer::End) {
            self.sessions[client] = None;
        }
        kind << 16 | answered.outcome()
    }
}

/// A message in the middle of a session.
fn message(session: &mut Attacker, files: &HostileFiles, input: &mut FuzzInput<'_>) -> u32 {
    let file = files.file(input.below(files.count()));
    let own = Arc::clone(&session.segment);
    let request = match input.below(4) {
        0 => ControlRequest::OpenLane {
            lane: input.below(66) as u32,
        },
        1 => ControlRequest::OfferFile {
            number: input.below(10) as u64,
        },
        2 => ControlRequest::AddSegment {
            segment: input.below(3) as u32,
        },
        _ => ControlRequest::AddSegment { segment: 0 },
    };
    let beside = match input.below(8) {
        6 => vec![],
        7 => vec![own.as_fd()],
        _ => vec![file],
    };
    let reply = session.ask(&request, &beside);
    outcome_of(reply.as_ref())
}

/// A request about pools.
fn manage(session: &mut Attacker, kind: u32, input: &mut FuzzInput<'_>) -> TaskAnswer {
    let victims = (super::VICTIMS_POOL, Some(super::VICTIM));
    let (id, owner) = match input.below(8) {
        5 => (super::VICTIMS_POOL, None),
        6 => (input.one_of(&POOLS), Some(input.one_of(&[0, u32::MAX]))),
        7 => victims,
        _ => (input.one_of(&POOLS), None),
    };
    let pool = PoolChoice { owner, ..id.into() };
    match kind {
        2 | 3 => {
            let size = input.one_of(&[1 << 20, 2 << 20, 3 << 20]);
            let params = codec::encode(&in_memory(size)).expect("encodes");
            let name = input.one_of(&["a", "b", "c", "d"]);
            let mut asked = GetOrCreatePool::new(MODULE_NAME, name, id, params);
            asked.owner = owner;
            asked.mode = input.once_in(4).then(|| input.number_u16());
            session.admin(Method::GetOrCreatePool, &asked)
        }
        4 => {
            let module = input.one_of(&[MODULE_NAME, "chimaera_echo"]).to_owned();
            let incarnation = input.once_in(8).then(|| input.number_u64());
            let asked = AttachPool {
                pool,
                module,
                incarnation,
            };
            session.admin(Method::AttachPool, &asked)
        }
        5 => session.admin(Method::DestroyPool, &DestroyPool { pool }),
        6 => {
            let asked = SetPermissions {
                pool,
                new_owner: input.once_in(8).then(|| input.number_u32()),
                new_group: input.once_in(8).then(|| input.number_u32()),
                new_mode: input.once_in(2).then(|| input.number_u16()),
            };
            session.admin(Method::SetPermissions, &asked)
        }
        7 => match input.below(3) {
            0 => session.admin(Method::FindPool, &FindPool { pool }),
            1 => session.admin(Method::ListPools, &ListPools { after: None }),
            _ => {
                let pool = input.once_in(2).then_some(pool);
                session.admin(Method::FlushPools, &FlushPools { pool })
            }
        },
        // Whatever lies in the buffer.
        _ => {
            let method = input.below(12) as u16;
            let bytes = input.bytes(64);
            super::write(&session.segment, DATA_OFFSET_BYTES as u64, bytes);
            session.admin_encoded(method, bytes)
        }
    }
}

fn run(rig: &mut Rig, files: &HostileFiles, input: &[u8]) -> Vec<u32> {
    let mut input = FuzzInput::new(input);
    let mut clients = Clients::default();
    let mut outcomes = Vec::new();
    for _ in 0..MAX_STEPS {
        outcomes.push(clients.step(rig, files, &mut input));
        rig.check();
        if input.has_ended() {
            break;
        }
    }
    drop(clients);
    rig.destroy_others();
    outcomes
}

#[test]
fn whatever_clients_do_and_whenever_they_leave_the_host_serves_on() {
    let files = HostileFiles::new();
    Rig::new().run("sessions", 3000, |rig, input| run(rig, &files, input));
}
