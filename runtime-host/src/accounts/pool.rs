//! What a pool takes, in the account of its owner.

#[cfg(test)]
use super::{AccountLimits, Accounts};
use super::{Charge, Exceeded, Holder, Resource};

/// The charges of one pool, which are given back when this is dropped.
#[derive(Debug)]
pub(crate) struct PoolAccount {
    holder: Holder,
    charges: Vec<Charge>,
}

impl PoolAccount {
    /// Counts a pool in somebody's name.
    ///
    /// # Errors
    /// Which limit is in the way.
    pub(crate) fn open(holder: Holder) -> Result<Self, Exceeded> {
        let mut account = Self {
            holder,
            charges: Vec::new(),
        };
        account.charge(Resource::Pools, 1)?;
        Ok(account)
    }

    /// Of a user of a host without anybody else, for tests.
    #[cfg(test)]
    pub(crate) fn of_nobody_else() -> Self {
        let accounts = Accounts::new(AccountLimits::of_this_machine());
        Self::open(accounts.holder(1, false)).expect("there is room")
    }

    /// Counts something that the pool takes.
    ///
    /// # Errors
    /// Which limit is in the way.
    pub(crate) fn charge(&mut self, resource: Resource, amount: u64) -> Result<(), Exceeded> {
        self.charges.push(self.holder.charge(resource, amount)?);
        Ok(())
    }

    /// Counts all of it in another user's name from now on, whatever that one's limits are.
    pub(crate) fn give_to(&mut self, user: u32) {
        for charge in &mut self.charges {
            charge.give_to(user);
        }
    }

    /// The user whose requests are limited and who has the pool, if it is one.
    pub(crate) fn limited_user(&self) -> Option<u32> {
        self.holder.is_limited().then(|| self.holder.user())
    }
}
