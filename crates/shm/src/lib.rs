//! Memory that two processes share: segments, lanes and wake-ups.
//!
//! This is the only crate that maps a session's memory and touches atomics across processes.
//! `docs/SHARED_MEMORY.md` has the layout as byte diagrams.
//!
//! Laws of this crate:
//! - The other side may write any byte at any time. What is read is copied once into private
//!   memory, and only the copy is looked at.
//! - The only references formed into a segment are to atomics, for which concurrent writes are
//!   no aliasing error. Everything else is reached through raw pointers, by copying.
//! - No cursor, index or length is taken from shared memory: a side's own cursors are private,
//!   and what the other side wrote is compared with what it may be.
//! - Every ordering names the instruction on the other side that it pairs with.

pub mod barrier;
mod doorbell;
mod futex;
mod lane;
mod mapped_lane;
pub mod packet;
pub mod peer_process;
#[cfg(not(loom))]
mod prefetch;
pub mod processor;
mod record;
mod segment;
mod shortage;
mod sync;

pub use barrier::PublishOrder;
pub use doorbell::Doorbell;
pub use lane::{LaneMemory, Taken};
pub use mapped_lane::Lane;
pub use record::Record;
pub use segment::{RefusedFile, Segment, SegmentError};
pub use shortage::{Shortage, check_memory};

#[cfg(all(test, loom))]
mod loom_tests;
