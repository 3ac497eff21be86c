//! Copies past the caches, for memory that is larger than they are.
//!
//! An ordinary store to memory that is in no cache first reads the line that it is about to
//! overwrite. Non-temporal stores do not: half as much travels, and what the caches hold stays
//! there. The price is that the bytes are in memory afterwards and not in a cache, so this is for
//! pools of which the caches hold little anyway ([`pays_off`]).

use std::fs;

/// The size of the last cache that is assumed where the system does not say.
const USUAL_CACHE_BYTES: u64 = 32 << 20;

/// Pools of at least this many times the last cache's size are written past it.
const CACHES_PER_POOL: u64 = 4;

/// Shorter copies are not worth the fence at their end.
pub(super) const MIN_BYTES: usize = 4096;

/// Whether memory of this size is better written past the caches.
pub(crate) fn pays_off(len_bytes: u64) -> bool {
    cfg!(target_arch = "x86_64") && len_bytes / CACHES_PER_POOL >= last_cache_bytes()
}

/// Bytes of the largest cache that a processor can use.
fn last_cache_bytes() -> u64 {
    let caches = (0..8).filter_map(|index| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        parse_size(fs::read_to_string(path).ok()?.trim())
    });
    caches.max().unwrap_or(USUAL_CACHE_BYTES)
}

/// Reads a size as the kernel writes it: "512K", "32M".
fn parse_size(text: &str) -> Option<u64> {
    let unit = text.find(|letter: char| !letter.is_ascii_digit());
    let (number, unit) = text.split_at(unit.unwrap_or(text.len()));
    let shift = match unit {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Copies past the caches. When this returns the bytes are ordered before whatever is stored next,
/// as those of an ordinary copy are before a store with release ordering.
///
/// # Safety
/// As for [`std::ptr::copy_nonoverlapping`] of bytes, save that others may change the source
/// meanwhile; then any mixture may arrive.
pub(crate) unsafe fn copy(source: *const u8, target: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
        const LINE: usize = 64;
        const STEP: usize = size_of::<__m128i>();
        let head = target.align_offset(LINE).min(len);
        let lines = (len - head) / LINE;
        let tail = head + lines * LINE;
        // SAFETY: head, lines and tail are parts of the two ranges; the lines of the target are
        // aligned as the stores need it.
        unsafe {
            std::ptr::copy_nonoverlapping(source, target, head);
            for line in 0..lines {
                let at = head + line * LINE;
                let words: [__m128i; LINE / STEP] = std::array::from_fn(|word| {
                    _mm_loadu_si128(source.add(at + word * STEP).cast())
                });
                for (word, value) in words.into_iter().enumerate() {
                    _mm_stream_si128(target.add(at + word * STEP).cast(), value);
                }
            }
            std::ptr::copy_nonoverlapping(source.add(tail), target.add(tail), len - tail);
            // Non-temporal stores are ordered by nothing else, and the task's completion, which is
            // an ordinary store, tells others that the bytes are there.
            _mm_sfence();
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: by this function's contract.
    unsafe {
        std::ptr::copy_nonoverlapping(source, target, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives_and_no_other_changes() {
        let source: Vec<u8> = (0..1000u32).map(|byte| (byte * 7 % 251) as u8).collect();
        for shift in [0, 1, 15, 16, 63] {
            for len in [0, 1, 63, 64, 65, 128, 500, 900] {
                let mut target = vec![0xEE; 1100];
                let start = target.as_ptr().align_offset(64) + shift;
                // SAFETY: both ranges lie in their vectors, which are not the same.
                unsafe { copy(source.as_ptr().add(3), target.as_mut_ptr().add(start), len) };
                assert_eq!(
                    target[start..start + len],
                    source[3..3 + len],
                    "{shift} {len}"
                );
                let around = target[..start].iter().chain(&target[start + len..]);
                assert!(
                    around.into_iter().all(|&byte| byte == 0xEE),
                    "{shift} {len}"
                );
            }
        }
    }

    #[test]
    fn sizes_read_as_the_kernel_writes_them() {
        assert_eq!(parse_size("512K"), Some(512 << 10));
        assert_eq!(parse_size("32M"), Some(32 << 20));
        assert_eq!(parse_size("7"), Some(7));
        for nonsense in [
            "",
            "K",
            "-1K",
            "5T",
            "99999999999999999999K",
            "18446744073709551615G",
        ] {
            assert_eq!(parse_size(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn small_pools_stay_in_the_caches() {
        assert!(!pays_off(1 << 20));
        assert_eq!(pays_off(1 << 40), cfg!(target_arch = "x86_64"));
    }
}
