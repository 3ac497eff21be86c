//! What is known of the pools of a connection, by whoever holds one.
//!
//! Laws of this module:
//! - Each task says which instance of the pool it means, and the runtime refuses it for any other. So nothing that is
//!   known here too late leads a task to another pool.
//! - A task that fails because its pool has ended or is another one makes the pool suspect for all who hold it
//!   ([`KnownPools::note_failure`]). A suspect pool is attached anew by its next use, and compared with what was known.
//! - That a pool has changed is not forgotten before the application has taken note of it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use chimaera_proto::admin::PoolInfo;
use chimaera_proto::{PoolId, Status};

use crate::reentrancy::Mutex;

/// What is known of the pool. Each word stands for itself, so all are relaxed.
pub(crate) struct KnownPool {
    /// The pool's id; that of none until it is known.
    pub(crate) id: AtomicU64,
    /// The user id of the owner who was named, and a bit beside it; 0 if none was.
    pub(crate) owner: AtomicU64,
    /// The id if the session was attached to it, else 0.
    attached: AtomicU64,
    /// Whether it may have become another one since.
    is_suspect: AtomicBool,
    /// Whether it is another one than it was, and the application has not taken note of that.
    has_changed: AtomicBool,
    /// The instance that it was attached to last; 0 before it was.
    pub(crate) instance: AtomicU32,
    /// That instance if nothing of that is so, and tasks can be sent; else 0.
    pub(crate) ready: AtomicU32,
    /// The incarnation that it was attached to last; 0 if nothing is known.
    pub(crate) known: AtomicU64,
}

impl KnownPool {
    /// A pool with this id, which the session is not attached to.
    pub(crate) fn new(id: PoolId) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            id: AtomicU64::new(to_word(id)),
            owner: zero(),
            attached: zero(),
            is_suspect: AtomicBool::new(false),
            has_changed: AtomicBool::new(false),
            instance: AtomicU32::new(0),
            ready: AtomicU32::new(0),
            known: zero(),
        }
    }

    /// Whether the session is attached to it, as far as is known.
    pub(crate) fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Relaxed) != 0 && !self.is_suspect.load(Ordering::Relaxed)
    }

    /// Whether what is known of the pool does not hold.
    pub(crate) fn has_changed(&self) -> bool {
        self.has_changed.load(Ordering::Relaxed)
    }

    /// Notes that the application knows what holds now.
    pub(crate) fn accept_change(&self) {
        self.has_changed.store(false, Ordering::Relaxed);
        self.become_ready();
    }

    /// Notes the pool that the session was attached to, which whoever asked has made if it `is_new`.
    pub(crate) fn settle(&self, info: &PoolInfo, is_new: bool) {
        let id = to_word(info.id);
        let known = self.known.swap(info.incarnation, Ordering::Relaxed);
        let is_same = known == info.incarnation || info.predecessor == Some(known);
        if is_new {
            self.has_changed.store(false, Ordering::Relaxed);
        } else if known != 0 && !is_same {
            self.has_changed.store(true, Ordering::Relaxed);
        }
        self.id.store(id, Ordering::Relaxed);
        self.attached.store(id, Ordering::Relaxed);
        self.instance.store(info.instance, Ordering::Relaxed);
        self.is_suspect.store(false, Ordering::Relaxed);
        self.become_ready();
    }

    fn become_suspect(&self) {
        self.is_suspect.store(true, Ordering::Relaxed);
        self.ready.store(0, Ordering::Relaxed);
    }

    /// Lets tasks be sent, unless something keeps them from it.
    fn become_ready(&self) {
        let ready = match self.is_attached() && !self.has_changed() {
            true => self.instance.load(Ordering::Relaxed),
            false => 0,
        };
        self.ready.store(ready, Ordering::Relaxed);
    }
}

/// The pools that a connection's session was attached to, as far as somebody holds them.
#[derive(Default)]
pub(crate) struct KnownPools(Mutex<Vec<Weak<KnownPool>>>);

impl KnownPools {
    /// Notes why a task for a pool has failed.
    #[cold]
    pub(crate) fn note_failure(&self, pool: PoolId, status: Status) {
        let has_ended = matches!(
            status,
            Status::PoolNotFound | Status::PoolChanged | Status::NotAttached
        );
        // A task of the admin pool fails so for what it asks about another one.
        if has_ended && pool != PoolId::ADMIN {
            self.for_each(pool, |pool| pool.become_suspect());
        }
    }

    /// Notes the pool that the session was attached to, for all who hold one with its id. `asked` has been settled, and
    /// is remembered.
    pub(crate) fn settle(&self, info: &PoolInfo, asked: &Arc<KnownPool>) {
        let mut is_listed = false;
        self.for_each(info.id, |pool| match Arc::ptr_eq(pool, asked) {
            true => is_listed = true,
            false => pool.settle(info, false),
        });
        if !is_listed {
            self.0.lock().push(Arc::downgrade(asked));
        }
    }

    /// Calls `act` for each pool with this id that somebody holds.
    fn for_each(&self, id: PoolId, mut act: impl FnMut(&Arc<KnownPool>)) {
        let id = to_word(id);
        self.0.lock().retain(|pool| {
            let Some(pool) = pool.upgrade() else {
                return false;
            };
            let attached = pool.attached.load(Ordering::Relaxed);
            if id == attached {
                act(&pool);
            }
            true
        });
    }
}

pub(crate) const fn to_word(pool: PoolId) -> u64 {
    (pool.major as u64) << 32 | pool.minor as u64
}

pub(crate) const fn from_word(word: u64) -> PoolId {
    PoolId::new((word >> 32) as u32, word as u32)
}
