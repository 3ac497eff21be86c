//! Hints to the processor's caches.

/// Asks for the cache line of an address that is going to be written soon, from whichever processor
/// has it. A hint: it touches nothing, whatever the address.
#[inline(always)]
pub(crate) fn for_writing(address: *const u8) {
    // Not the intrinsic: it becomes a prefetch for reading where the build does not presuppose
    // `prefetchw`, and then the line has to be asked for once more. Processors that do not know the
    // instruction take it as none.
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
