//! Changes of inputs.

use crate::random::Xorshift;

/// Bytes at which programs decide something.
const EDGES: [u8; 8] = [0, 1, 2, 63, 64, 127, 128, 255];

/// One of the inputs, changed in a few places, and not longer than this.
pub(super) fn mutated(pool: &[Vec<u8>], max_len: usize, numbers: &mut Xorshift) -> Vec<u8> {
    // One that was found late is deeper.
    let first = numbers.below(pool.len());
    let second = numbers.below(pool.len());
    let mut input = pool[first.max(second)].clone();
    for _ in 0..=numbers.below(4) {
        change(&mut input, pool, numbers);
    }
    input.truncate(max_len);
    input
}

fn change(input: &mut Vec<u8>, pool: &[Vec<u8>], numbers: &mut Xorshift) {
    if input.is_empty() {
        input.push(numbers.below(256) as u8);
        return;
    }
    let at = numbers.below(input.len());
    let len = 1 + numbers.below((input.len() - at).min(32));
    match numbers.below(9) {
        0 => input[at] = numbers.below(256) as u8,
        1 => input[at] = EDGES[numbers.below(EDGES.len())],
        2 => input[at] ^= 1 << numbers.below(8),
        3 => input[at] = input[at].wrapping_add(1),
        4 => input[at] = input[at].wrapping_sub(1),
        5 => drop(input.drain(at..at + len)),
        6 => {
            let again = input[at..at + len].to_vec();
            let place = numbers.below(input.len() + 1);
            input.splice(place..place, again);
        }
        7 => {
            let new: Vec<u8> = (0..len).map(|_| numbers.below(256) as u8).collect();
            input.splice(at..at, new);
        }
        _ => {
            // The end of another one.
            let other = &pool[numbers.below(pool.len())];
            let from = numbers.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
    }
}
