//! Who may do what with a pool: owner, group and mode, as a file has them.
//!
//! Of a mode, the bits to read and to write count, for the owner, the group and all others; execute bits mean nothing.
//! What a task needs is for its module to say, per method. To manage a pool (to end it, and to change its permissions)
//! is for its owner and for operators, whatever the mode says.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The user id and group id by which the kernel shows whoever has none in this user namespace. Nobody is known by it:
/// it owns nothing.
pub const OVERFLOW_ID: u32 = 65534;

/// The bits of a mode that a pool can have.
pub const MODE_BITS: u16 = 0o777;

/// The mode of a pool that is made, unless another one is asked for.
pub const DEFAULT_MODE: u16 = 0o600;

/// What a method of a module needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u16)]
pub enum Right {
    /// To look: read, list, statistics.
    Read = 1,
    /// To change what the pool holds.
    Write = 2,
    /// To change the pool itself: its owner and operators have it.
    Manage = 3,
}

impl Right {
    /// Every right.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Manage];

    /// The right with this number.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Read,
            2 => Self::Write,
            3 => Self::Manage,
            _ => return None,
        })
    }

    const fn bit(self) -> u8 {
        1 << (self as u16)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Manage => "manage",
        })
    }
}

/// A set of rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights(u8);

impl Rights {
    /// None at all.
    pub const NONE: Self = Self(0);
    /// All that there are.
    pub const ALL: Self = Self(Right::Read.bit() | Right::Write.bit() | Right::Manage.bit());
    /// To read, and nothing else.
    pub const READ: Self = Self(Right::Read.bit());

    /// Whether the right is among these.
    #[must_use]
    pub const fn has(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// These and this one.
    #[must_use]
    pub const fn with(self, right: Right) -> Self {
        Self(self.0 | right.bit())
    }

    /// Those that are in both sets.
    #[must_use]
    pub const fn within(self, ceiling: Self) -> Self {
        Self(self.0 & ceiling.0)
    }
}

impl fmt::Display for Rights {
    /// As words between commas; "none" for none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for right in Right::ALL {
            if self.has(right) {
                write!(f, "{separator}{right}")?;
                separator = ", ";
            }
        }
        if self.is_none() {
            f.write_str("none")?;
        }
        Ok(())
    }
}

/// Owner, group and mode of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    /// User id of the owner.
    pub owner: u32,
    /// Group id.
    pub group: u32,
    /// Permission bits, of [`MODE_BITS`].
    pub mode: u16,
}

impl Permissions {
    /// Those of a new pool of this user's, for the user alone.
    #[must_use]
    pub const fn of_owner(owner: u32, group: u32) -> Self {
        Self {
            owner,
            group,
            mode: DEFAULT_MODE,
        }
    }

    /// The rights of a user with these groups, as the kernel decides them for a file: the owner has the owner's bits, a
    /// member of the group the group's, and all others the others'. Whoever is known as [`OVERFLOW_ID`] is one of the
    /// others.
    #[must_use]
    pub fn rights_of(&self, user: u32, mut is_in_group: impl FnMut(u32) -> bool) -> Rights {
        let is_owner = user == self.owner && user != OVERFLOW_ID;
        let class = if is_owner {
            self.mode >> 6
        } else if self.group != OVERFLOW_ID && is_in_group(self.group) {
            self.mode >> 3
        } else {
            self.mode
        };
        let given = |is_given: bool, rights: Rights, right| match is_given {
            true => rights.with(right),
            false => rights,
        };
        let rights = given(class & 0o4 != 0, Rights::NONE, Right::Read);
        let rights = given(class & 0o2 != 0, rights, Right::Write);
        given(is_owner, rights, Right::Manage)
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, group, mode } = self;
        write!(f, "owner {owner}, group {group}, mode {mode:04o}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ_WRITE: Rights = Rights::READ.with(Right::Write);

    fn rights(mode: u16, user: u32, groups: &[u32]) -> Rights {
        let permissions = Permissions {
            owner: 10,
            group: 20,
            mode,
        };
        permissions.rights_of(user, |group| groups.contains(&group))
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        for (mode, user, groups, expected) in [
            (0o600, 10, [1].as_slice(), Rights::ALL),
            (0o600, 11, &[20], Rights::NONE),
            (0o640, 11, &[1, 20], Rights::READ),
            (0o664, 11, &[20], READ_WRITE),
            (0o664, 11, &[1], Rights::READ),
            // An owner without bits may still manage, and give them back.
            (0o066, 10, &[20], Rights::NONE.with(Right::Manage)),
            // A member of the group does not get what all others get.
            (0o606, 11, &[20], Rights::NONE),
            (0o606, 11, &[], READ_WRITE),
            (0o111, 10, &[20], Rights::NONE.with(Right::Manage)),
            (0o111, 11, &[20], Rights::NONE),
        ] {
            let found = rights(mode, user, groups);
            assert_eq!(found, expected, "{mode:o} {user} {groups:?}: {found}");
        }
    }

    #[test]
    fn whoever_the_kernel_does_not_know_is_one_of_the_others() {
        let nobodys = Permissions {
            owner: OVERFLOW_ID,
            group: OVERFLOW_ID,
            mode: 0o664,
        };
        let found = nobodys.rights_of(OVERFLOW_ID, |group| group == OVERFLOW_ID);
        assert_eq!(found, Rights::READ);
    }

    #[test]
    fn every_right_has_its_number() {
        for right in Right::ALL {
            assert_eq!(Right::from_number(right as u16), Some(right));
        }
        assert_eq!([0, 4].map(Right::from_number), [None, None]);
        assert_eq!(Rights::ALL.to_string(), "read, write, manage");
        assert_eq!(Rights::NONE.to_string(), "none");
    }
}
