//! Names of things that outlive a message: pools, containers, nodes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Names a pool, as `major.minor`. Chosen by whoever creates the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PoolId {
    /// The part that an application chooses for a family of pools.
    pub major: u32,
    /// The part that tells pools of a family apart.
    pub minor: u32,
}

impl PoolId {
    /// Stands for "no pool": a creation request with this id lets the host choose one.
    pub const NULL: Self = Self::new(0, 0);

    /// The admin module's pool. It exists from the start and cannot be destroyed.
    pub const ADMIN: Self = Self::new(1, 0);

    /// The lowest `major` that the host hands out when a creation request leaves the choice to it.
    /// It chooses at random from there on.
    pub const FIRST_CHOSEN_MAJOR: u32 = 100_000;

    /// The id that these random bits choose, of those that are left to choice: it may be recorded on a device, and
    /// should not be the one that somebody else chooses for another pool.
    #[must_use]
    pub const fn drawn(random: u64) -> Self {
        const COUNT: u64 = (u32::MAX - PoolId::FIRST_CHOSEN_MAJOR) as u64 + 1;
        Self::new(Self::FIRST_CHOSEN_MAJOR + (random % COUNT) as u32, 0)
    }

    /// Makes an id from its two parts.
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// Whether this is [`PoolId::NULL`].
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.major == 0 && self.minor == 0
    }

    pub(crate) const fn to_word(self) -> u64 {
        self.major as u64 | (self.minor as u64) << 32
    }

    pub(crate) const fn from_word(word: u64) -> Self {
        Self::new(word as u32, (word >> 32) as u32)
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A text that is not a pool id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a pool id: expected MAJOR.MINOR, for example 8000.0")]
pub struct ParsePoolIdError(String);

impl FromStr for PoolId {
    type Err = ParsePoolIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParsePoolIdError(text.to_owned());
        let (major, minor) = text.split_once('.').ok_or_else(error)?;
        Ok(Self::new(
            major.parse().map_err(|_| error())?,
            minor.parse().map_err(|_| error())?,
        ))
    }
}

/// Names a container of a pool. A node has one container per pool; the first has id 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerId(pub u32);

/// Names a node. The node that a runtime runs on is [`NodeId::LOCAL`] while there is only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The only node of a runtime that is not part of a cluster.
    pub const LOCAL: Self = Self(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_ids_read_as_they_are_written() {
        for id in [
            PoolId::NULL,
            PoolId::ADMIN,
            PoolId::new(8000, 7),
            PoolId::new(u32::MAX, u32::MAX),
        ] {
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(PoolId::from_word(id.to_word()), id);
        }
    }

    #[test]
    fn what_is_not_a_pool_id_is_refused_with_its_text() {
        for text in [
            "",
            "8000",
            "8000.",
            ".0",
            "8000.0.0",
            "-1.0",
            "4294967296.0",
            "a.b",
        ] {
            let error = text.parse::<PoolId>().expect_err(text);
            assert!(
                error.to_string().contains(&format!("\"{text}\"")),
                "{error}"
            );
        }
    }
}
