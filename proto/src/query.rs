//! Which containers of a pool a task is for.

use std::fmt;

use crate::ids::{ContainerId, NodeId};

/// Which containers of a pool a task is for. The host resolves it; see its routing module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PoolQuery {
    /// The container on the caller's own node.
    #[default]
    Local,
    /// The container with this id.
    DirectId(ContainerId),
    /// The container that this hash falls on: `hash` modulo the number of containers.
    DirectHash(u32),
    /// The `count` containers from id `offset` on. They must all be there, and `count` not be 0.
    Range {
        /// Id of the first container.
        offset: u32,
        /// How many containers.
        count: u32,
    },
    /// Every container of the pool.
    Broadcast,
    /// The container on this node.
    Physical(NodeId),
    /// Whatever the runtime finds best: it looks locally first and goes further only if it must.
    Dynamic,
}

/// A query in a descriptor whose mode is not one that this version knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("query mode {0} is unknown")]
pub struct UnknownQueryMode(pub u8);

impl PoolQuery {
    pub(crate) const fn to_parts(self) -> (u8, u32, u32) {
        match self {
            Self::Local => (0, 0, 0),
            Self::DirectId(container) => (1, container.0, 0),
            Self::DirectHash(hash) => (2, hash, 0),
            Self::Range { offset, count } => (3, offset, count),
            Self::Broadcast => (4, 0, 0),
            Self::Physical(node) => (5, node.0, 0),
            Self::Dynamic => (6, 0, 0),
        }
    }

    pub(crate) const fn from_parts(mode: u8, a: u32, b: u32) -> Result<Self, UnknownQueryMode> {
        Ok(match mode {
            0 => Self::Local,
            1 => Self::DirectId(ContainerId(a)),
            2 => Self::DirectHash(a),
            3 => Self::Range {
                offset: a,
                count: b,
            },
            4 => Self::Broadcast,
            5 => Self::Physical(NodeId(a)),
            6 => Self::Dynamic,
            unknown => return Err(UnknownQueryMode(unknown)),
        })
    }
}

impl fmt::Display for PoolQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::DirectId(container) => write!(f, "container {}", container.0),
            Self::DirectHash(hash) => write!(f, "hash {hash}"),
            Self::Range { offset, count } => write!(f, "{count} containers from {offset}"),
            Self::Broadcast => f.write_str("broadcast"),
            Self::Physical(node) => write!(f, "node {}", node.0),
            Self::Dynamic => f.write_str("dynamic"),
        }
    }
}
