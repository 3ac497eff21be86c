//! Hints to the processor's caches.

/// Prefetches, for writing, the cache line of an address that will be written soon. A hint: it has no other effect,
/// whatever the address.
#[inline(always)]
pub(crate) fn for_writing(address: *const u8) {
    // Not the intrinsic: where the build does not presuppose `prefetchw`, it becomes a prefetch for reading, and the
    // line has to be requested once more for writing. Processors that lack the instruction ignore it.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect but on caches.
    unsafe {
        std::arch::asm!(
            "prefetchw [{}]",
            in(reg) address,
            options(nostack, preserves_flags, readonly)
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
