//! The caller's side of a free that completes later.

/// Is notified that a free is complete.
pub trait FreeCompletion: Send {
    /// All the blocks are released. Called exactly once, by the thread that ends what the free waited for last: within
    /// [`Allocator::free_and_tell`](crate::Allocator::free_and_tell), or within another thread's
    /// [`unpin`](crate::Allocator::unpin), [`pin`](crate::Allocator::pin) or `free_and_tell`. No lock is held.
    fn freed(self);
}
