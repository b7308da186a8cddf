//! LeaveGroup: one member goes, or, from version 3, several at once.

use super::{Node, group_error_code};
use crate::group::Caller;
use kappa_protocol::messages::leave_group_response::MemberResponse;
use kappa_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;

/// From this version on, members are listed.
const LISTED: i16 = 3;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: LeaveGroupRequest) -> Reply {
    let response = if !cx.allows(Operation::Read, Resource::Group(&request.group_id)) {
        failed(node.error(ErrorCode::GroupAuthorizationFailed))
    } else if cx.version >= LISTED {
        leave(node, request)
    } else {
        let caller = Caller { member_id: &request.member_id, instance_id: None };
        let outcomes = node.groups.leave(&request.group_id, &[caller]);
        let outcome = outcomes.and_then(|outcomes| outcomes.into_iter().collect());
        failed(node.group_outcome(&outcome))
    };
    Reply::Now(response.into())
}

fn leave(node: &Node, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let callers: Vec<Caller<'_>> = request
        .members
        .iter()
        .map(|member| Caller {
            member_id: &member.member_id,
            instance_id: member.group_instance_id.as_deref(),
        })
        .collect();
    match node.groups.leave(&request.group_id, &callers) {
        Ok(outcomes) => {
            let members = request.members.into_iter().zip(outcomes);
            let member = |(member, outcome): (_, _)| answer(node, member, &outcome);
            LeaveGroupResponse { members: members.map(member).collect(), ..LeaveGroupResponse::default() }
        }
        Err(error) => failed(node.error(group_error_code(&error))),
    }
}

fn answer(
    node: &Node,
    member: kappa_protocol::messages::leave_group_request::MemberIdentity,
    outcome: &Result<(), crate::group::GroupError>,
) -> MemberResponse {
    MemberResponse {
        member_id: member.member_id,
        group_instance_id: member.group_instance_id,
        error_code: node.group_outcome(outcome),
    }
}

fn failed(error_code: i16) -> LeaveGroupResponse {
    LeaveGroupResponse { error_code, ..LeaveGroupResponse::default() }
}
