//! What users and sessions have of what all share, as the admin module tells it.

use serde::{Deserialize, Serialize};

/// Asks for the sessions behind one, in order of their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListSessions {
    /// Those behind this one; 0 for the first.
    pub after: u64,
}

/// A page of the sessions that the asking user may know of: operators know all, others their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionList {
    /// In order of their numbers.
    pub sessions: Vec<SessionInfo>,
    /// What the users of these sessions have, in order of user id.
    pub users: Vec<UserUse>,
    /// Whether there are more sessions.
    pub more: bool,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Its number, which no other session of the daemon has.
    pub session: u64,
    /// The user who opened it.
    pub user: u32,
    /// The process that opened it, as the daemon sees it; 0 for one in a pid namespace of which the daemon knows
    /// nothing.
    pub process_id: i32,
    /// The beginning of the name that its program gave it.
    pub name: String,
    /// Whether it came through the operators' socket.
    pub is_operator: bool,
    /// Seconds since it was opened.
    pub age_seconds: u64,
    /// Whether it has ended, and tasks of it are still under way.
    pub is_ending: bool,
    /// What it has.
    pub uses: Vec<ResourceUse>,
}

/// What a user has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserUse {
    /// The user's id.
    pub user: u32,
    /// What all of the user's sessions and pools have together.
    pub uses: Vec<ResourceUse>,
}

/// How much of a resource somebody has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceUse {
    /// The resource, by the name that it has in options of the daemon.
    pub resource: String,
    /// How much of it.
    pub used: u64,
    /// How much of it may be used, where there is a limit.
    pub limit: Option<u64>,
}

/// The most bytes of [`SessionInfo::name`].
pub const MAX_SHOWN_NAME_BYTES: usize = 128;
