//! How much address space the heaps of threads take.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// Has all threads of this process share one heap if its address space is limited (`ulimit -v`). Otherwise glibc
/// reserves 64 MiB for each thread that allocates while another does, whether the rest is enough to go on with or not.
/// For a program, before it starts threads; other C libraries do nothing of the kind.
pub fn share_heap_where_memory_is_limited() {
    let is_limited = getrlimit(Resource::RLIMIT_AS).is_ok_and(|(soft, _)| soft != RLIM_INFINITY);
    #[cfg(target_env = "gnu")]
    if is_limited {
        // SAFETY: it sets a number that the allocator reads.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = is_limited;
}
