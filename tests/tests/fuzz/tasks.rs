//! Any descriptors in the lane of a session in good order, for a pool in memory, an echo pool and the host itself.

use chimaera_bdev_proto::{Block, MODULE_NAME, Method};
use chimaera_proto::admin::{self, GetOrCreatePool};
use chimaera_proto::task::Unvalidated;
use chimaera_proto::{Descriptor, PoolId, codec};
use chimaera_testing::FuzzInput;
use chimaera_testing::raw_client::ping;

use super::attacker::{Attacker, TaskAnswer};
use super::descriptors::some_task;
use super::{Rig, in_memory};

const MEMORY: PoolId = PoolId::new(8000, 1);
const ECHO: PoolId = PoolId::new(8000, 2);

/// The most tasks of an input.
const MAX_TASKS: usize = 48;

fn run(rig: &mut Rig, input: &[u8]) -> Vec<u32> {
    let mut attacker = Attacker::new(&rig.socket);
    let params = codec::encode(&in_memory(4 << 20)).expect("encodes");
    for (module, id, params) in [
        (MODULE_NAME, MEMORY, params),
        ("chimaera_echo", ECHO, b"hello".to_vec()),
    ] {
        let asked = GetOrCreatePool::new(module, &id.to_string(), id, params);
        let made = attacker.admin(admin::Method::GetOrCreatePool, &asked);
        assert_eq!(made.outcome(), 1, "{made:?}");
    }
    let outcomes = send(&mut attacker, &mut FuzzInput::new(input));
    drop(attacker);
    rig.destroy_others();
    outcomes
}

fn send(attacker: &mut Attacker, input: &mut FuzzInput<'_>) -> Vec<u32> {
    let mut outcomes = Vec::new();
    let mut blocks: Vec<Block> = Vec::new();
    let of_memory = Descriptor {
        pool: MEMORY,
        ..ping()
    };
    let memory = of_memory.to_words(0)[1];
    let mut sent = 0;
    while sent < MAX_TASKS && !input.has_ended() {
        // Several at a time, of which some may have the same record.
        let burst = match input.once_in(4) {
            true => 1 + input.below(12),
            false => 1,
        };
        let mut published = Vec::new();
        for _ in 0..burst {
            let words = some_task(input, &[MEMORY, ECHO], &blocks);
            let rounds_ahead = match input.once_in(64) {
                true => input.number_u32() % 1024,
                false => 0,
            };
            let method = Unvalidated(&words).method();
            let pool = words[1] == memory;
            published.push((method, pool, attacker.publish(&words, rounds_ahead)));
            sent += 1;
        }
        for (index, (method, of_memory, task)) in published.iter().enumerate() {
            // Of several with one record, the last one's flag is what stays.
            let record = task.0;
            if published[index + 1..]
                .iter()
                .any(|later| later.2.0 == record)
            {
                continue;
            }
            let answered = attacker.wait(*task);
            let kind = u32::from(*of_memory) << 8 | u32::from((*method).min(16));
            outcomes.push(kind << 16 | answered.outcome());
            match answered {
                TaskAnswer::End => return outcomes,
                TaskAnswer::Task(_) if *of_memory && *method == Method::AllocateBlocks as u16 => {
                    let values = answered.values().unwrap_or_default();
                    let found = values[1..].chunks_exact(2).take(values[0] as usize);
                    blocks.extend(found.flat_map(|words| Block::from_words([words[0], words[1]])));
                }
                TaskAnswer::Task(_) => {}
            }
        }
    }
    outcomes
}

#[test]
fn whatever_stands_in_a_lane_the_host_serves_on() {
    Rig::new().run("tasks", 4000, run);
}
