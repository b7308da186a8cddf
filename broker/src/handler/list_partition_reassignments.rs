//! ListPartitionReassignments: none is ever under way, the only replica of a partition is here (KIP-455).

use super::Node;
use kappa_protocol::messages::{ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;

/// What does not exist is not reassigned either, and no error.
pub(crate) fn handle(node: &Arc<Node>, cx: &Context, _request: ListPartitionReassignmentsRequest) -> Reply {
    let refused = !cx.allows(Operation::Describe, Resource::Cluster);
    let response = ListPartitionReassignmentsResponse {
        error_code: if refused { node.error(ErrorCode::ClusterAuthorizationFailed) } else { 0 },
        error_message: refused.then(|| "not allowed to describe the cluster".into()),
        ..Default::default()
    };
    Reply::Now(response.into())
}
