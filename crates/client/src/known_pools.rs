//! What is known of the pools of a connection, by whoever holds one.

use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};

use chimaera_proto::PoolId;
use chimaera_proto::admin::PoolInfo;

/// What is known of the pool. Each word stands for itself, so all are relaxed.
pub(crate) struct KnownPool {
    /// The pool's id; that of none until it is known.
    pub(crate) id: AtomicU64,
    /// The user id of the owner who was named, and [`NAMED`]; 0 if none was.
    pub(crate) owner: AtomicU64,
    /// The id if the session is attached to it, else 0.
    pub(crate) attached: AtomicU64,
    /// The id if besides what is known of the pool holds, else 0.
    pub(crate) ready: AtomicU64,
    /// The incarnation for which what is known holds; 0 if nothing is known.
    pub(crate) known: AtomicU64,
}

impl KnownPool {
    /// Whether what is known of the pool does not hold.
    pub(crate) fn has_changed(&self) -> bool {
        self.attached.load(Ordering::Relaxed) != 0 && self.ready.load(Ordering::Relaxed) == 0
    }

    /// Notes the pool that the session was attached to, which whoever asked has made if it `is_new`.
    pub(crate) fn settle(&self, info: &PoolInfo, is_new: bool) {
        let id = to_word(info.id);
        let had_changed = self.has_changed();
        let known = self.known.swap(info.incarnation, Ordering::Relaxed);
        let is_same = known == info.incarnation || info.predecessor == Some(known);
        let holds = known == 0 || is_new || (is_same && !had_changed);
        self.id.store(id, Ordering::Relaxed);
        self.attached.store(id, Ordering::Relaxed);
        self.ready
            .store(if holds { id } else { 0 }, Ordering::Relaxed);
    }
}

/// What is known of the pools of a connection, by whoever holds one.
pub(crate) type KnownPools = Vec<Weak<KnownPool>>;

pub(crate) const fn to_word(pool: PoolId) -> u64 {
    (pool.major as u64) << 32 | pool.minor as u64
}

pub(crate) const fn from_word(word: u64) -> PoolId {
    PoolId::new((word >> 32) as u32, word as u32)
}
