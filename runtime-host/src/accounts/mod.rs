//! Accounts: what each user and each session has of what all share, and how much it may have.
//!
//! Sessions are free to make, so what counts is the user. A request that would take more than its user, its session,
//! all users together or everybody may have is refused before anything is tried, and the error says which limit that
//! is, how much is in use and who can raise it. Nothing else happens.
//!
//! Laws of this module:
//! - What is counted is held by a [`Charge`], which lives as long as the thing and gives the amount back when it is
//!   dropped. So nothing is given back twice or never.
//! - A charge takes all or nothing, under one lock, which is held for some comparisons only.
//! - Operators have accounts too, which are shown, and no limits of a user's: whoever may end the daemon need not be
//!   kept from using it. Those of a session and of the whole host hold for them.
//! - A user without anything has no account: users come and go without leaving anything behind.

mod limits;
mod pool;
mod resource;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use chimaera_chimod::ModuleError;
use chimaera_proto::Status;
use parking_lot::Mutex;

pub use limits::AccountLimits;
pub(crate) use limits::MAX_POOLS;
pub(crate) use pool::PoolAccount;
pub use resource::{Amounts, Resource};

/// All accounts of a host.
#[derive(Debug)]
pub(crate) struct Accounts {
    limits: AccountLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    everybody: Amounts,
    /// Without operators.
    users: Amounts,
    by_holder: BTreeMap<(u32, Level), Amounts>,
}

/// Which part of a user's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// All that the user has.
    User,
    /// What this session has.
    Session(u64),
}

/// In whose name something is counted.
#[derive(Clone)]
pub(crate) struct Holder {
    accounts: Arc<Accounts>,
    user: u32,
    session: Option<u64>,
    is_operator: bool,
}

/// What somebody uses and how much everybody of that kind may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exceeded {
    resource: Resource,
    whose: Whose,
    used: u64,
    wanted: u64,
    limit: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Session,
    User(u32),
    AllUsers,
    Everybody,
}

/// An amount of a resource, in somebody's name, until this is dropped.
#[must_use]
pub(crate) struct Charge {
    holder: Holder,
    resource: Resource,
    amount: u64,
}

impl Accounts {
    pub(crate) fn new(limits: AccountLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            state: Mutex::default(),
        })
    }

    /// Somebody in whose name things are counted.
    pub(crate) fn holder(self: &Arc<Self>, user: u32, is_operator: bool) -> Holder {
        Holder {
            accounts: Arc::clone(self),
            user,
            session: None,
            is_operator,
        }
    }

    pub(crate) fn limits(&self) -> &AccountLimits {
        &self.limits
    }

    /// The users who have anything, in order.
    pub(crate) fn users(&self) -> Vec<u32> {
        let state = self.state.lock();
        let keys = state.by_holder.keys();
        let users = keys.filter(|(_, level)| *level == Level::User);
        users.map(|(user, _)| *user).collect()
    }

    /// What a user has.
    pub(crate) fn of_user(&self, user: u32) -> Amounts {
        self.amounts(user, Level::User)
    }

    /// What a session has.
    pub(crate) fn of_session(&self, user: u32, session: u64) -> Amounts {
        self.amounts(user, Level::Session(session))
    }

    fn amounts(&self, user: u32, level: Level) -> Amounts {
        let state = self.state.lock();
        let amounts = state.by_holder.get(&(user, level));
        amounts.copied().unwrap_or_default()
    }
}

impl Holder {
    /// The same user, in this session.
    pub(crate) fn in_session(&self, session: u64) -> Self {
        Self {
            session: Some(session),
            ..self.clone()
        }
    }

    /// Whether a user's limits hold for it.
    pub(crate) fn is_limited(&self) -> bool {
        !self.is_operator
    }

    pub(crate) fn user(&self) -> u32 {
        self.user
    }

    /// Counts an amount, which stays counted as long as the charge lives.
    ///
    /// # Errors
    /// Which limit is in the way. Nothing is counted then.
    pub(crate) fn charge(&self, resource: Resource, amount: u64) -> Result<Charge, Exceeded> {
        let mut state = self.accounts.state.lock();
        self.check(&state, resource, amount)?;
        let charge = Charge {
            holder: self.clone(),
            resource,
            amount,
        };
        state.put_on(&charge);
        Ok(charge)
    }

    fn keys(&self) -> impl Iterator<Item = (u32, Level)> + use<> {
        let user = self.user;
        let session = self.session.map(|session| (user, Level::Session(session)));
        std::iter::once((user, Level::User)).chain(session)
    }

    fn check(&self, state: &State, resource: Resource, wanted: u64) -> Result<(), Exceeded> {
        let limits = &self.accounts.limits;
        let of = |level| {
            let amounts = state.by_holder.get(&(self.user, level));
            amounts.map_or(0, |amounts| amounts.of(resource))
        };
        let check = |whose, used: u64, limit: &Amounts| {
            let limit = limit.of(resource);
            match used.checked_add(wanted) {
                Some(sum) if sum <= limit => Ok(()),
                _ => Err(Exceeded {
                    resource,
                    whose,
                    used,
                    wanted,
                    limit,
                }),
            }
        };
        if let Some(session) = self.session {
            let used = of(Level::Session(session));
            check(Whose::Session, used, &limits.per_session)?;
        }
        if !self.is_operator {
            check(Whose::User(self.user), of(Level::User), &limits.per_user)?;
            check(Whose::AllUsers, state.users.of(resource), &limits.all_users)?;
        }
        check(
            Whose::Everybody,
            state.everybody.of(resource),
            &limits.whole,
        )
    }
}

impl Charge {
    /// Counts the amount in another user's name from now on, whatever that one's limits are: for what an operator gives
    /// to somebody.
    pub(crate) fn give_to(&mut self, user: u32) {
        let holder = self.holder.accounts.holder(user, self.holder.is_operator);
        let accounts = Arc::clone(&holder.accounts);
        let mut state = accounts.state.lock();
        state.take_off(self);
        self.holder = holder;
        state.put_on(self);
    }
}

impl State {
    fn put_on(&mut self, charge: &Charge) {
        let (resource, amount) = (charge.resource, charge.amount);
        self.everybody.add(resource, amount);
        if !charge.holder.is_operator {
            self.users.add(resource, amount);
        }
        for key in charge.holder.keys() {
            let amounts = self.by_holder.entry(key).or_default();
            amounts.add(resource, amount);
        }
    }

    fn take_off(&mut self, charge: &Charge) {
        let (resource, amount) = (charge.resource, charge.amount);
        self.everybody.subtract(resource, amount);
        if !charge.holder.is_operator {
            self.users.subtract(resource, amount);
        }
        for key in charge.holder.keys() {
            let amounts = self.by_holder.get_mut(&key).expect("it was charged");
            amounts.subtract(resource, amount);
            if amounts.is_none() {
                self.by_holder.remove(&key);
            }
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.holder.accounts.state.lock().take_off(self);
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} for {:?}",
            self.resource.amount(self.amount),
            self.holder
        )
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {}", self.user)
    }
}

impl Exceeded {
    /// The refusal of a request.
    pub(crate) fn status(self) -> Status {
        Status::LimitReached
    }
}

impl From<Exceeded> for ModuleError {
    fn from(exceeded: Exceeded) -> Self {
        Self::new(exceeded.status(), exceeded.to_string())
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            resource,
            whose,
            used,
            wanted,
            limit,
        } = *self;
        let (used, name) = (resource.amount(used), resource.name());
        match whose {
            Whose::Session => write!(
                f,
                "this session has {used} and asks for {wanted} more, of at most {limit} for each session: give some \
                 back, use another connection, or let the daemon's operator raise that (--session-limits {name}=…)"
            ),
            Whose::User(user) => write!(
                f,
                "user {user} has {used} in this daemon and asks for {wanted} more, of at most {limit} for each user: \
                 give some back, or let the daemon's operator raise that (--user-limits {name}=…)"
            ),
            Whose::AllUsers => write!(
                f,
                "all users of this daemon have {used}, of at most {limit} together, and {wanted} more are asked for: \
                 try again later, or let its operator give users less each (--user-limits {name}=…)"
            ),
            Whose::Everybody => write!(
                f,
                "this daemon has {used}, of at most {limit}, and {wanted} more are asked for: try again later, or let \
                 its operator end what uses them"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
