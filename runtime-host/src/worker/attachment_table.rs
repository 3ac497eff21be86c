//! The attachments of all sessions to pools, as one worker knows them.
//!
//! A user may have many sessions with many attachments each. So what concerns one session or one pool looks at its own
//! attachments alone.

use std::collections::{BTreeMap, BTreeSet};

use chimaera_proto::PoolId;

use super::Attachment;

/// Attachments by session and id, and by pool.
///
/// Invariant: an attachment is in `by_pool` exactly if it is in `by_id` and has its pool still.
#[derive(Default)]
pub(super) struct AttachmentTable {
    by_id: BTreeMap<(u64, PoolId), Attachment>,
    by_pool: BTreeSet<(u64, u64, PoolId)>,
}

impl AttachmentTable {
    #[inline]
    pub(super) fn get(&self, session: u64, id: PoolId) -> Option<&Attachment> {
        self.by_id.get(&(session, id))
    }

    pub(super) fn insert(&mut self, session: u64, id: PoolId, attachment: Attachment) {
        let number = attachment.number;
        if let Some(before) = self.by_id.insert((session, id), attachment) {
            self.by_pool.remove(&(before.number, session, id));
        }
        self.by_pool.insert((number, session, id));
    }

    /// How many ids mean something in a session's tasks, or have.
    pub(super) fn count(&self, session: u64) -> usize {
        self.of_session(session).count()
    }

    /// Forgets a session's attachments; only those whose pools are gone, if `ended` says so.
    pub(super) fn forget(&mut self, session: u64, ended: bool) {
        let ids: Vec<_> = self.of_session(session).collect();
        for id in ids {
            let is_kept = |attachment: &Attachment| ended && attachment.pool.is_some();
            if self.get(session, id).is_some_and(is_kept) {
                continue;
            }
            if let Some(attachment) = self.by_id.remove(&(session, id)) {
                self.by_pool.remove(&(attachment.number, session, id));
            }
        }
    }

    /// Changes all attachments to the pool with this number.
    pub(super) fn change(&mut self, number: u64, mut change: impl FnMut(&mut Attachment)) {
        let keys: Vec<_> = self.of_pool(number).collect();
        for (session, id) in keys {
            if let Some(attachment) = self.by_id.get_mut(&(session, id)) {
                change(attachment);
                if attachment.pool.is_none() {
                    self.by_pool.remove(&(number, session, id));
                }
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.by_id.clear();
        self.by_pool.clear();
    }

    fn of_session(&self, session: u64) -> impl Iterator<Item = PoolId> {
        let from = self.by_id.range((session, PoolId::NULL)..);
        from.map_while(move |(key, _)| (key.0 == session).then_some(key.1))
    }

    fn of_pool(&self, number: u64) -> impl Iterator<Item = (u64, PoolId)> {
        let from = self.by_pool.range((number, 0, PoolId::NULL)..);
        from.map_while(move |key| (key.0 == number).then_some((key.1, key.2)))
    }
}
