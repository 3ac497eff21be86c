//! Whether a pool scrubs: whether its blocks are zeroed before they are handed out.
//!
//! Laws:
//! - A pool that scrubs does so for good, since the space of its free blocks holds what was in it before.
//! - Whoever other permissions let in gets only blocks that were zeroed: a pool scrubs before its permissions let
//!   others in; and one that overwrites what somebody else may have left, or lies on a device, of which only samples
//!   were looked at, scrubs unless it is its maker's alone. So does one that others use and that grows on a device. For
//!   a device whoever has it opened may say that there is nothing.
//! - Only the pool's owner and operators may have a pool scrub.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};

use chimaera_bdev_format::PoolOwner;
use chimaera_bdev_proto::ScrubPolicy;
use chimaera_chimod::{CreateAgain, CreateContext, Host, Level, ModuleError};
use chimaera_proto::Status;
use chimaera_proto::rights::DEFAULT_MODE;
use parking_lot::Mutex;

use crate::params::Parameters;

/// Whether an open pool scrubs, and the permissions on which that depends.
pub(crate) struct Scrub {
    is_on: AtomicBool,
    // Held while other permissions are recorded.
    owner: Mutex<PoolOwner>,
    host: Host,
}

impl Scrub {
    pub(crate) fn new(is_on: bool, owner: PoolOwner, host: Host) -> Self {
        Self {
            is_on: AtomicBool::new(is_on),
            owner: Mutex::new(owner),
            host,
        }
    }

    /// Whether blocks have to be zeroed.
    // Relaxed: a worker hears from the host, by its inbox, of whoever is let in, after this was set. Tasks of those who
    // were in before may find it as it was.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    pub(crate) fn policy(&self) -> ScrubPolicy {
        ScrubPolicy::of(self.is_on())
    }

    pub(crate) fn turn_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Gives the pool other permissions, which `record` records, and has hold, together with whether it scrubs from now
    /// on. Blocks as `record` does.
    ///
    /// # Errors
    /// Those of `record`. Nothing has changed in the open pool then.
    pub(crate) fn set_owner<E>(
        &self,
        after: PoolOwner,
        record: impl FnOnce(bool) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut owner = self.owner.lock();
        let begins = after.lets_others_in(*owner) && !self.is_on();
        record(begins)?;
        *owner = after;
        if begins {
            let text = "its permissions let others in: blocks are zeroed from now on before they are handed out";
            self.host.log(Level::Info, text);
        }
        Ok(())
    }

    /// Whether the pool is to begin to scrub, since whoever creates it `again` asks for it.
    ///
    /// # Errors
    /// As [`begins`].
    pub(crate) fn begins(
        &self,
        asked: Option<ScrubPolicy>,
        again: CreateAgain<'_>,
    ) -> Result<bool, ModuleError> {
        let by = (again.creator.uid, again.may_manage);
        begins(self.is_on(), self.owner.lock().user, asked, by)
    }
}

/// As [`Scrub::begins`], of a pool that is being opened, and scrubs already if `is_on`; `uid` is the user who asks.
///
/// # Errors
/// [`Status::ParameterMismatch`] if it is not to scrub any more; [`Status::PermissionDenied`] if whoever asks may not
/// have it scrub.
pub(crate) fn begins(
    is_on: bool,
    owner_uid: u32,
    asked: Option<ScrubPolicy>,
    (uid, may_manage): (u32, bool),
) -> Result<bool, ModuleError> {
    match (asked, is_on) {
        (None, _) | (Some(ScrubPolicy::None), false) | (Some(ScrubPolicy::Allocate), true) => {
            Ok(false)
        }
        (Some(ScrubPolicy::Allocate), false) if may_manage => Ok(true),
        (Some(ScrubPolicy::Allocate), false) => Err(ModuleError::new(
            Status::PermissionDenied,
            format!(
                "the pool does not zero blocks before it hands them out, and only its owner (user {owner_uid}) and \
                 operators may have it do so, over a socket that lets them, not user {uid}: leave scrub out to use the \
                 pool as it is"
            ),
        )),
        (Some(ScrubPolicy::None), true) => Err(ModuleError::new(
            Status::ParameterMismatch,
            "the pool exists with other parameters: scrub is allocate, asked for none; a pool that zeroes blocks does \
             so for good, since others may have been let in: leave it out to use the pool as it is",
        )),
    }
}

/// What the space of a new pool may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FormerContents {
    /// Nothing.
    Blank,
    /// Something that samples of a device did not show.
    Unseen,
    /// What the pool is made over.
    Overwritten,
}

/// Whether a new pool scrubs, whose space may hold this.
///
/// # Errors
/// [`Status::InvalidArgument`] if it has to, and is asked not to.
pub(crate) fn of_new_pool(
    context: &CreateContext<'_>,
    parameters: &Parameters,
    former: FormerContents,
) -> Result<bool, ModuleError> {
    let makers_alone = PoolOwner {
        user: context.creator.uid,
        group: context.permissions.group,
        mode: DEFAULT_MODE.into(),
    };
    let is_for_others = PoolOwner::from(context.permissions).lets_others_in(makers_alone);
    match (parameters.scrub, former) {
        (Some(ScrubPolicy::Allocate), _) => Ok(true),
        (None, FormerContents::Blank) => Ok(false),
        (None, FormerContents::Unseen | FormerContents::Overwritten) => Ok(is_for_others),
        (Some(ScrubPolicy::None), FormerContents::Overwritten) if is_for_others => {
            Err(ModuleError::new(
                Status::InvalidArgument,
                "scrub is none, but the pool overwrites what is there, and its permissions let others in, who could \
                 read that in new blocks: leave scrub out, or make the pool for its maker alone (mode 0600)",
            ))
        }
        // Whoever says so knows what is on the device.
        (Some(ScrubPolicy::None), _) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_begins_to_scrub_when_it_may_and_never_ceases() {
        let begins = |is_on, asked, may_manage| {
            begins(is_on, 7, asked, (8, may_manage)).map_err(|error| error.failure.status)
        };
        let (none, allocate) = (Some(ScrubPolicy::None), Some(ScrubPolicy::Allocate));
        for (is_on, asked, may_manage, expected) in [
            (false, None, true, Ok(false)),
            (true, None, false, Ok(false)),
            (false, none, false, Ok(false)),
            (true, allocate, false, Ok(false)),
            (false, allocate, true, Ok(true)),
            (false, allocate, false, Err(Status::PermissionDenied)),
            (true, none, true, Err(Status::ParameterMismatch)),
        ] {
            assert_eq!(
                begins(is_on, asked, may_manage),
                expected,
                "{is_on} {asked:?}"
            );
        }
    }
}
