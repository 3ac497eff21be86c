//! What is known of the pools of a connection, by whoever holds one.
//!
//! Laws of this module:
//! - Each task says which instance of the pool it means, and the runtime refuses it for any other. So nothing that is
//!   known here too late leads a task to another pool.
//! - A task that fails because its pool has ended or is another one makes the pool suspect for all who hold it
//!   ([`KnownPools::note_failure`]). A suspect pool is attached anew by its next use, and compared with what was known.
//! - What a task asks for was known when the task was made: if the application forgets what may not hold before it is
//!   known which pool is there, the task is for none.
//! - That a pool has changed is not forgotten before the application has taken note of it: of this pool, not of one
//!   that was there before.
//! - Whoever holds a pool of one owner is not led to another owner's by somebody else's attaching to that.
//!
//! What a holder knows is a [`Standing`]. It goes from one to the next under the lock of [`KnownPools`]:
//!
//! | what happens | instance | attachment | has changed |
//! |---|---|---|---|
//! | the handle is made | none | `Never` | no |
//! | its own request is answered: the pool that was known, or its next incarnation | the answer's | `Attached` | as it
//! was |
//! | likewise: another pool | the answer's | `Attached` | yes, if one was known |
//! | likewise: a pool that this request has made | the answer's | `Attached` | no |
//! | somebody else's request for the same id is answered: the pool that was known, its next incarnation, or another one
//! of the owner whose it was | the answer's | `Attached` | as for its own |
//! | likewise: a pool of another owner | as it was | `Suspect` | as it was |
//! | a task fails as the pool has ended or is another one | as it was | `Suspect` | as it was |
//! | the application has read a whole list of this instance | as it was | as it was | no |
//! | the application has read a whole list of another instance | as it was | as it was | as it was |
//! | the application says that it has forgotten what may not hold | as it was | as it was; if that is `Suspect`,
//! nothing is known of the pool any more, so that none that is there is another one | no |
//!
//! Tasks are sent without a further question where it is `Attached` and has not changed, and only there.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use chimaera_proto::admin::PoolInfo;
use chimaera_proto::{PoolId, Status};

use crate::reentrancy::Mutex;

/// What is known of the pool. Changed under the lock of [`KnownPools`], and looked at without: each word stands for
/// itself, so all are relaxed.
pub(crate) struct KnownPool {
    /// The pool's id; that of none until it is known.
    pub(crate) id: AtomicU64,
    /// The user id of the owner who was named, or whose it was when it was attached to, and a bit beside it; 0 if there
    /// is none.
    owner: AtomicU64,
    /// A [`Standing`].
    standing: AtomicU64,
    /// The standing's [`Standing::ready`], where tasks look for it.
    pub(crate) ready: AtomicU32,
    /// The incarnation that it was attached to last; 0 if nothing is known.
    pub(crate) known: AtomicU64,
    /// How often the application has said that it has forgotten what may not hold.
    forgotten: AtomicU32,
}

/// How a holder stands to a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    /// The instance that it was attached to last; 0 before it was.
    instance: u32,
    attachment: Attachment,
    /// Whether it is another one than it was, and the application has not taken note of that.
    has_changed: bool,
}

/// Whether the session is attached to a pool, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attachment {
    /// It has not been so far.
    Never,
    /// It is.
    Attached,
    /// It was. Since then the pool may have become another one.
    Suspect,
}

/// Beside an owner: there is one.
const NAMED: u64 = 1 << 32;

impl Standing {
    const NEW: Self = Self {
        instance: 0,
        attachment: Attachment::Never,
        has_changed: false,
    };

    /// The instance that tasks are for, if they can be sent; else 0.
    const fn ready(self) -> u32 {
        match (self.attachment, self.has_changed) {
            (Attachment::Attached, false) => self.instance,
            _ => 0,
        }
    }

    const fn to_word(self) -> u64 {
        let attachment = match self.attachment {
            Attachment::Never => 0,
            Attachment::Attached => 1,
            Attachment::Suspect => 2,
        };
        (attachment << 1 | self.has_changed as u64) << 32 | self.instance as u64
    }

    const fn from_word(word: u64) -> Self {
        Self {
            instance: word as u32,
            attachment: match word >> 33 {
                0 => Attachment::Never,
                1 => Attachment::Attached,
                _ => Attachment::Suspect,
            },
            has_changed: word >> 32 & 1 != 0,
        }
    }
}

impl KnownPool {
    /// A pool with this id, which the session is not attached to.
    pub(crate) fn new(id: PoolId) -> Self {
        Self {
            id: AtomicU64::new(to_word(id)),
            owner: AtomicU64::new(0),
            standing: AtomicU64::new(Standing::NEW.to_word()),
            ready: AtomicU32::new(Standing::NEW.ready()),
            known: AtomicU64::new(0),
            forgotten: AtomicU32::new(0),
        }
    }

    /// How often the application has said that it has forgotten what may not hold. What it has asked for before it says
    /// so is from before, and may not hold either.
    pub(crate) fn times_forgotten(&self) -> u32 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Whether the session is attached to it, as far as is known.
    pub(crate) fn is_attached(&self) -> bool {
        self.standing().attachment == Attachment::Attached
    }

    /// Whether what is known of the pool does not hold.
    pub(crate) fn has_changed(&self) -> bool {
        self.standing().has_changed
    }

    /// The instance that it was attached to last; 0 before it was.
    pub(crate) fn instance(&self) -> u32 {
        self.standing().instance
    }

    /// The owner who was named, or whose it was when it was attached to.
    pub(crate) fn owner(&self) -> Option<u32> {
        let owner = self.owner.load(Ordering::Relaxed);
        (owner & NAMED != 0).then_some(owner as u32)
    }

    /// Notes whose pool is meant.
    pub(crate) fn set_owner(&self, owner: u32) {
        let owner = u64::from(owner) | NAMED;
        self.owner.store(owner, Ordering::Relaxed);
    }

    fn standing(&self) -> Standing {
        Standing::from_word(self.standing.load(Ordering::Relaxed))
    }

    fn stand(&self, standing: Standing) {
        self.standing.store(standing.to_word(), Ordering::Relaxed);
        self.ready.store(standing.ready(), Ordering::Relaxed);
    }

    /// Notes the pool that the session was attached to, which whoever asked has made if it `is_new`.
    fn settle(&self, info: &PoolInfo, is_new: bool) {
        let was_known = self.known.load(Ordering::Relaxed) != 0;
        let has_become_another = was_known && !self.is_known_as(info);
        self.known.store(info.incarnation, Ordering::Relaxed);
        self.id.store(to_word(info.id), Ordering::Relaxed);
        self.set_owner(info.permissions.owner);
        self.stand(Standing {
            instance: info.instance,
            attachment: Attachment::Attached,
            has_changed: !is_new && (has_become_another || self.has_changed()),
        });
    }

    /// Notes the pool that the session was attached to by somebody else's request for the same id.
    fn settle_beside(&self, info: &PoolInfo) {
        // The pool that is known may have been given to another owner.
        let is_meant = self.owner() == Some(info.permissions.owner) || self.is_known_as(info);
        match is_meant {
            true => self.settle(info, false),
            false => self.become_suspect(),
        }
    }

    /// Whether this is the incarnation of the pool that is known, or the next one.
    fn is_known_as(&self, info: &PoolInfo) -> bool {
        let known = self.known.load(Ordering::Relaxed);
        known == info.incarnation || info.predecessor == Some(known)
    }

    fn become_suspect(&self) {
        self.stand(Standing {
            attachment: Attachment::Suspect,
            ..self.standing()
        });
    }

    /// Forgets what was known of a pool that may be another one by now: whichever is there, it is none that has
    /// changed.
    fn forget(&self) {
        if self.standing().attachment == Attachment::Suspect {
            self.known.store(0, Ordering::Relaxed);
            self.forgotten.fetch_add(1, Ordering::Relaxed);
        }
        self.accept_change();
    }

    fn accept_change(&self) {
        self.stand(Standing {
            has_changed: false,
            ..self.standing()
        });
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
            for_each(&mut self.0.lock(), pool, |pool| pool.become_suspect());
        }
    }

    /// Notes the pool that the session was attached to by the request of `asked`, which is remembered, and has made the
    /// pool if it `is_new`; also for all others who hold one with its id.
    pub(crate) fn settle(&self, info: &PoolInfo, asked: &Arc<KnownPool>, is_new: bool) {
        let mut held = self.0.lock();
        asked.settle(info, is_new);
        let mut is_listed = false;
        for_each(&mut held, info.id, |pool| match Arc::ptr_eq(pool, asked) {
            true => is_listed = true,
            false => pool.settle_beside(info),
        });
        if !is_listed {
            held.push(Arc::downgrade(asked));
        }
    }

    /// Notes that the application has forgotten what may not hold.
    pub(crate) fn accept_change(&self, pool: &KnownPool) {
        let _held = self.0.lock();
        pool.forget();
    }

    /// Notes that the application knows what that instance of the pool holds. Returns whether what is known of the pool
    /// holds now: not if it has changed, and is another one than that.
    pub(crate) fn accept_contents(&self, pool: &KnownPool, instance: u32) -> bool {
        let _held = self.0.lock();
        if pool.instance() == instance {
            pool.accept_change();
        }
        !pool.has_changed()
    }
}

/// Calls `act` for each pool with this id that somebody holds and the session was attached to.
fn for_each(held: &mut Vec<Weak<KnownPool>>, id: PoolId, mut act: impl FnMut(&Arc<KnownPool>)) {
    let id = to_word(id);
    held.retain(|pool| {
        let Some(pool) = pool.upgrade() else {
            return false;
        };
        if pool.id.load(Ordering::Relaxed) == id {
            act(&pool);
        }
        true
    });
}

pub(crate) const fn to_word(pool: PoolId) -> u64 {
    (pool.major as u64) << 32 | pool.minor as u64
}

pub(crate) const fn from_word(word: u64) -> PoolId {
    PoolId::new((word >> 32) as u32, word as u32)
}
