//! Heartbeat: a member lives, and learns whether it has to rejoin.

use super::Node;
use crate::group::Caller;
use kappa_protocol::messages::{HeartbeatRequest, HeartbeatResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: HeartbeatRequest) -> Reply {
    let error_code = if cx.allows(Operation::Read, Resource::Group(&request.group_id)) {
        let caller =
            Caller { member_id: &request.member_id, instance_id: request.group_instance_id.as_deref() };
        node.group_outcome(&node.groups.heartbeat(&request.group_id, caller, request.generation_id))
    } else {
        node.error(ErrorCode::GroupAuthorizationFailed)
    };
    Reply::Now(HeartbeatResponse { error_code, ..HeartbeatResponse::default() }.into())
}
