//! The sessions of a host, as lists show them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use chimaera_proto::accounts::{
    ListSessions, MAX_SHOWN_NAME_BYTES, ResourceUse, SessionInfo, SessionList, UserUse,
};
use chimaera_proto::limits::ADMIN_BUFFER_BYTES;
use parking_lot::Mutex;

use crate::accounts::{Accounts, Amounts, Resource};
use crate::caller::Caller;

/// All sessions by number, from their beginning until nothing of them is left. The control thread enters and removes
/// them.
#[derive(Debug, Default)]
pub(crate) struct SessionRegistry(Mutex<BTreeMap<u64, SessionEntry>>);

#[derive(Debug)]
struct SessionEntry {
    caller: Arc<Caller>,
    name: String,
    since: Instant,
    is_ending: bool,
}

/// Bytes of a session or a user on a page, names left out, at most.
const ENTRY_BYTES: usize = 64 + Resource::ALL.len() * 40;

impl SessionRegistry {
    pub(crate) fn enter(&self, caller: &Arc<Caller>, name: &str) {
        let end = name.floor_char_boundary(MAX_SHOWN_NAME_BYTES);
        let entry = SessionEntry {
            caller: Arc::clone(caller),
            name: name[..end].to_owned(),
            since: Instant::now(),
            is_ending: false,
        };
        self.0.lock().insert(caller.session, entry);
    }

    /// Notes that a session has ended. Tasks of it may still be under way.
    pub(crate) fn end(&self, session: u64) {
        if let Some(entry) = self.0.lock().get_mut(&session) {
            entry.is_ending = true;
        }
    }

    /// Forgets a session of which nothing is left.
    pub(crate) fn remove(&self, session: u64) {
        self.0.lock().remove(&session);
    }

    /// A page of the sessions that somebody may know of.
    pub(crate) fn page(
        &self,
        asked: &ListSessions,
        accounts: &Accounts,
        caller: &Caller,
    ) -> SessionList {
        let sessions = self.0.lock();
        let behind = (Bound::Excluded(asked.after), Bound::Unbounded);
        let visible = |entry: &SessionEntry| {
            caller.is_operator() || entry.caller.peer.user_id == caller.peer.user_id
        };
        let mut list = SessionList::default();
        let mut users = BTreeSet::new();
        let mut left = ADMIN_BUFFER_BYTES as usize / 2;
        for entry in sessions.range(behind).map(|(_, entry)| entry) {
            if !visible(entry) {
                continue;
            }
            let bytes = 2 * ENTRY_BYTES + entry.name.len();
            if bytes > left {
                list.more = true;
                break;
            }
            left -= bytes;
            users.insert(entry.caller.peer.user_id);
            list.sessions.push(entry.info(accounts));
        }
        drop(sessions);
        if !list.more && caller.is_operator() {
            // Pools outlive the sessions that have made them. As many as fit on the page.
            let others = accounts.users();
            let room = left / ENTRY_BYTES;
            users.extend(others.into_iter().take(room));
        } else {
            users.insert(caller.peer.user_id);
        }
        list.users = users
            .into_iter()
            .map(|user| UserUse {
                user,
                uses: uses(&accounts.of_user(user), &accounts.limits().per_user),
            })
            .collect();
        list
    }
}

impl SessionEntry {
    fn info(&self, accounts: &Accounts) -> SessionInfo {
        let (session, peer) = (self.caller.session, self.caller.peer);
        let used = accounts.of_session(peer.user_id, session);
        SessionInfo {
            session,
            user: peer.user_id,
            process_id: peer.process_id,
            name: self.name.clone(),
            is_operator: self.caller.is_operator(),
            age_seconds: self.since.elapsed().as_secs(),
            is_ending: self.is_ending,
            uses: uses(&used, &accounts.limits().per_session),
        }
    }
}

/// What somebody has of each resource of which they have something.
fn uses(used: &Amounts, limits: &Amounts) -> Vec<ResourceUse> {
    let resources = Resource::ALL.iter().copied();
    let held = resources.filter(|&resource| used.of(resource) > 0);
    held.map(|resource| ResourceUse {
        resource: resource.name().to_owned(),
        used: used.of(resource),
        limit: Some(limits.of(resource)).filter(|&limit| limit < u64::MAX),
    })
    .collect()
}
