//! Who asks: a client by the kernel's word, what it may do in this host, and the pools that it is attached to.
//!
//! Who somebody is was settled when the connection was made, and stays so: user and group by `SO_PEERCRED`, further
//! groups by `SO_PEERGROUPS`. Nothing is looked up by name, and nothing under `/proc`. A connection is a capability:
//! whoever holds it may do what its maker could.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use chimaera_chimod::{Creator, ModuleError};
use chimaera_fork::Private;
use chimaera_proto::control::MAX_OFFERED_FILES;
use chimaera_proto::rights::OVERFLOW_ID;
use chimaera_proto::{Permissions, PoolId, Right, Rights, Status};
use nix::sys::socket::UnixCredentials;
use parking_lot::Mutex;

#[cfg(test)]
use crate::accounts::{AccountLimits, Accounts};
use crate::accounts::{Charge, Holder};
use crate::config::{Operators, UsersCeiling};
use crate::jobs::JobOwner;

/// Who is at the other end of a socket, by the kernel's word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) process_id: i32,
    pub(crate) user_id: u32,
    pub(crate) group_id: u32,
}

impl Peer {
    /// Whether it is the host's own process, which embeds the host.
    pub(crate) fn is_this_process(self) -> bool {
        self.process_id.cast_unsigned() == std::process::id()
    }
}

impl From<UnixCredentials> for Peer {
    fn from(peer: UnixCredentials) -> Self {
        Self {
            process_id: peer.pid(),
            user_id: peer.uid(),
            group_id: peer.gid(),
        }
    }
}

impl fmt::Display for Peer {
    /// For the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of user {}", self.process_id, self.user_id)
    }
}

/// What a connection gives its client, by the socket that it came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// All rights to all pools, and to the host itself.
    Operator,
    /// What permissions give, up to this.
    User { ceiling: Rights },
}

impl Standing {
    /// The standing on a socket for users.
    pub(crate) const fn of_user(max: UsersCeiling) -> Self {
        let ceiling = match max {
            UsersCeiling::Read => Rights::READ,
            UsersCeiling::Write => Rights::ALL,
        };
        Self::User { ceiling }
    }
}

/// The most pools that a session can be attached to, those counted that have ended since.
pub(crate) const MAX_ATTACHMENTS: usize = 8192;

/// A client that was welcomed.
#[derive(Debug)]
pub(crate) struct Caller {
    /// The number of its session.
    pub(crate) session: u64,
    pub(crate) peer: Peer,
    groups: Vec<u32>,
    standing: Standing,
    /// In whose name what the session takes is counted.
    pub(crate) account: Holder,
    /// The number of the pool that each id stands for in this session's tasks.
    attached: Mutex<BTreeMap<PoolId, u64>>,
    /// Files that it has offered and no request has used yet, by number.
    offered: Mutex<BTreeMap<u64, ClientFile>>,
}

/// A file that a client has offered. A forked child does not have it. Closing it may take as long as the client likes.
#[derive(Debug)]
pub(crate) struct ClientFile {
    file: Private<OwnedFd>,
    _charge: Charge,
}

impl ClientFile {
    /// A file, and the descriptor that it takes.
    pub(crate) fn new(file: Private<OwnedFd>, charge: Charge) -> Self {
        Self {
            file,
            _charge: charge,
        }
    }
}

impl AsFd for ClientFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Caller {
    /// A client of this identity, in a session of its own.
    pub(crate) fn new(
        session: u64,
        (peer, groups): (Peer, Vec<u32>),
        standing: Standing,
        account: &Holder,
    ) -> Self {
        Self {
            session,
            peer,
            groups,
            standing,
            account: account.in_session(session),
            attached: Mutex::default(),
            offered: Mutex::default(),
        }
    }

    /// A user without further groups, for tests.
    #[cfg(test)]
    pub(crate) fn of_user(user: u32, standing: Standing) -> Self {
        let peer = Peer {
            process_id: 1,
            user_id: user,
            group_id: user,
        };
        let accounts = Accounts::new(AccountLimits::of_this_machine());
        let account = accounts.holder(user, standing == Standing::Operator);
        Self::new(1, (peer, Vec::new()), standing, &account)
    }

    /// The user for whom lines of the log are limited, if it is one.
    pub(crate) fn limited_user(&self) -> Option<u32> {
        self.account.is_limited().then_some(self.peer.user_id)
    }

    /// For whom what it asks for is carried out.
    pub(crate) fn job_owner(&self) -> JobOwner {
        match self.standing {
            Standing::Operator => JobOwner::Host,
            Standing::User { .. } => JobOwner::User {
                user: self.peer.user_id,
                session: self.session,
            },
        }
    }

    pub(crate) fn is_operator(&self) -> bool {
        self.standing == Standing::Operator
    }

    /// Whether it is a member of the group. Nobody is one of a group that the kernel does not know here.
    pub(crate) fn is_in_group(&self, group: u32) -> bool {
        is_member(self.peer, &self.groups, group)
    }

    /// What it may do with a pool of these permissions.
    pub(crate) fn rights_to(&self, permissions: Permissions) -> Rights {
        match self.standing {
            Standing::Operator => Rights::ALL,
            Standing::User { ceiling } => permissions
                .rights_of(self.peer.user_id, |group| self.is_in_group(group))
                .within(ceiling),
        }
    }

    /// Whether the permissions give it this right, which the socket that it came through takes away.
    pub(crate) fn is_held_back(&self, permissions: Permissions, right: Right) -> bool {
        let given = permissions.rights_of(self.peer.user_id, |group| self.is_in_group(group));
        match self.standing {
            Standing::Operator => false,
            Standing::User { ceiling } => given.has(right) && !ceiling.has(right),
        }
    }

    /// Checks that it may make pools.
    pub(crate) fn check_may_create(&self) -> Result<(), ModuleError> {
        match self.standing {
            Standing::User { ceiling } if !ceiling.has(Right::Manage) => Err(denied(
                "the socket of this connection lets nobody make or change pools: connect to another socket of the \
                 daemon"
                    .to_owned(),
            )),
            _ if self.peer.user_id == OVERFLOW_ID => Err(denied(format!(
                "user {OVERFLOW_ID} stands for whoever has no user id here, and owns nothing: make the pool as another \
                 user"
            ))),
            _ => Ok(()),
        }
    }

    /// Checks that it has operators' rights, for what `act` says.
    pub(crate) fn check_operator(&self, act: &str) -> Result<(), ModuleError> {
        match self.is_operator() {
            true => Ok(()),
            false => Err(denied(format!(
                "{act} needs operators' rights, which user {} does not have here: connect to the operators' socket, as \
                 root, as the daemon's user, or as one of its --operators",
                self.peer.user_id
            ))),
        }
    }

    /// Keeps a file that it offers under a number. Gives the file back whose place it takes; or this one, if there are
    /// too many.
    pub(crate) fn offer(
        &self,
        number: u64,
        file: ClientFile,
    ) -> Result<Option<ClientFile>, ClientFile> {
        let mut offered = self.offered.lock();
        if offered.len() >= MAX_OFFERED_FILES && !offered.contains_key(&number) {
            return Err(file);
        }
        Ok(offered.insert(number, file))
    }

    /// Takes the file that it has offered under a number.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] if there is none.
    pub(crate) fn take_offered(&self, number: u64) -> Result<ClientFile, ModuleError> {
        let taken = self.offered.lock().remove(&number);
        taken.ok_or_else(|| {
            ModuleError::new(
                Status::InvalidArgument,
                format!(
                    "this connection has offered no file with the number {number}, or has used it up: offer it again"
                ),
            )
        })
    }

    /// Takes all files that it has offered, as its session has ended.
    pub(crate) fn take_all_offered(&self) -> impl Iterator<Item = ClientFile> + use<> {
        std::mem::take(&mut *self.offered.lock()).into_values()
    }

    /// Checks that this id stands for no pool for which `is_live` says that it is still there.
    ///
    /// # Errors
    /// [`Status::Busy`] if it does.
    pub(crate) fn check_may_attach(
        &self,
        id: PoolId,
        is_live: impl Fn(u64) -> bool,
    ) -> Result<(), ModuleError> {
        check_is_free(&self.attached.lock(), id, is_live)
    }

    /// Notes that this id stands for the pool with this number. `is_live` says whether a pool is still there.
    ///
    /// # Errors
    /// [`Status::Busy`] if it stands for another pool that is still there.
    pub(crate) fn attach(
        &self,
        id: PoolId,
        pool: u64,
        is_live: impl Fn(u64) -> bool,
    ) -> Result<(), ModuleError> {
        let mut attached = self.attached.lock();
        check_is_free(&attached, id, |other| other != pool && is_live(other))?;
        if attached.len() >= MAX_ATTACHMENTS {
            attached.retain(|_, &mut pool| is_live(pool));
        }
        attached.insert(id, pool);
        Ok(())
    }
}

/// Checks that an id stands for no other pool in a session.
fn check_is_free(
    attached: &BTreeMap<PoolId, u64>,
    id: PoolId,
    is_other: impl Fn(u64) -> bool,
) -> Result<(), ModuleError> {
    if !attached.get(&id).is_some_and(|&number| is_other(number)) {
        return Ok(());
    }
    Err(ModuleError::new(
        Status::Busy,
        format!(
            "this connection uses another user's pool with the id {id} already: use another connection for this one"
        ),
    ))
}

impl From<&Caller> for Creator {
    fn from(caller: &Caller) -> Self {
        Self {
            uid: caller.peer.user_id,
            gid: caller.peer.group_id,
            is_operator: caller.is_operator(),
        }
    }
}

impl fmt::Display for Caller {
    /// For the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peer.fmt(f)
    }
}

impl Operators {
    /// Whether somebody with this identity is one of the operators of a daemon that this process is.
    pub(crate) fn admit(&self, peer: Peer, groups: &[u32]) -> bool {
        self.has_user(peer.user_id)
            || (peer.user_id != OVERFLOW_ID
                && self
                    .groups
                    .iter()
                    .any(|&group| is_member(peer, groups, group)))
    }

    /// Whether this user is an operator by being this user.
    pub(crate) fn has_user(&self, user: u32) -> bool {
        user != OVERFLOW_ID && (user == 0 || user == own_user() || self.users.contains(&user))
    }
}

/// The user whose daemon this process is.
pub(crate) fn own_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn is_member(peer: Peer, groups: &[u32], group: u32) -> bool {
    group != OVERFLOW_ID && (peer.group_id == group || groups.contains(&group))
}

pub(crate) fn denied(text: String) -> ModuleError {
    ModuleError::new(Status::PermissionDenied, text)
}
