//! Which containers a query names.
//!
//! This is the one place that knows the shape of the cluster. Today that is one node with one
//! container per pool; with more, this module's answer grows, and its callers forward.

use chimaera_proto::{ContainerId, NodeId, PoolQuery, Status};

/// Where the containers of a pool are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    node: NodeId,
    container_count: u32,
}

impl Placement {
    /// A pool of a runtime that is not part of a cluster.
    pub(crate) const SINGLE_NODE: Self = Self {
        node: NodeId::LOCAL,
        container_count: 1,
    };

    /// The container on this node that a query names.
    ///
    /// # Errors
    /// [`Status::ContainerNotFound`] or [`Status::NodeNotFound`] if the query names something
    /// that does not exist; [`Status::InvalidArgument`] for a range of no containers.
    #[inline]
    pub(crate) fn resolve(self, query: PoolQuery) -> Result<ContainerId, Status> {
        const LOCAL: ContainerId = ContainerId(0);
        match query {
            // Dynamic looks locally first, and every pool that exists is here.
            PoolQuery::Local | PoolQuery::Dynamic | PoolQuery::Broadcast => Ok(LOCAL),
            PoolQuery::DirectHash(hash) => Ok(ContainerId(hash % self.container_count)),
            PoolQuery::DirectId(id) if id.0 < self.container_count => Ok(id),
            PoolQuery::DirectId(_) => Err(Status::ContainerNotFound),
            PoolQuery::Range { count: 0, .. } => Err(Status::InvalidArgument),
            PoolQuery::Range { offset, count } => match offset.checked_add(count) {
                Some(end) if end <= self.container_count => Ok(ContainerId(offset)),
                _ => Err(Status::ContainerNotFound),
            },
            PoolQuery::Physical(node) if node == self.node => Ok(LOCAL),
            PoolQuery::Physical(_) => Err(Status::NodeNotFound),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_that_name_what_is_there_resolve_to_it() {
        let queries = [
            PoolQuery::Local,
            PoolQuery::Dynamic,
            PoolQuery::Broadcast,
            PoolQuery::DirectId(ContainerId(0)),
            PoolQuery::DirectHash(u32::MAX),
            PoolQuery::Range {
                offset: 0,
                count: 1,
            },
            PoolQuery::Physical(NodeId(0)),
        ];
        for query in queries {
            assert_eq!(
                Placement::SINGLE_NODE.resolve(query),
                Ok(ContainerId(0)),
                "{query}"
            );
        }
    }

    #[test]
    fn queries_that_name_what_is_not_there_are_refused() {
        let cases = [
            (
                PoolQuery::DirectId(ContainerId(1)),
                Status::ContainerNotFound,
            ),
            (
                PoolQuery::Range {
                    offset: 0,
                    count: 2,
                },
                Status::ContainerNotFound,
            ),
            (
                PoolQuery::Range {
                    offset: 1,
                    count: 1,
                },
                Status::ContainerNotFound,
            ),
            (
                PoolQuery::Range {
                    offset: u32::MAX,
                    count: 1,
                },
                Status::ContainerNotFound,
            ),
            (
                PoolQuery::Range {
                    offset: 0,
                    count: 0,
                },
                Status::InvalidArgument,
            ),
            (PoolQuery::Physical(NodeId(1)), Status::NodeNotFound),
        ];
        for (query, status) in cases {
            assert_eq!(
                Placement::SINGLE_NODE.resolve(query),
                Err(status),
                "{query}"
            );
        }
    }
}
