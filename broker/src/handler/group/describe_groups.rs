//! DescribeGroups: members of groups, with what they were assigned.

use super::{Node, elsewhere, group_error_code, once};
use crate::group::{GroupDescription, GroupError, Member};
use kappa_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kappa_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;

/// Operations on a group by their numbers in Kafka's access rules: read 3, delete 6, describe 8.
const OPERATIONS: [(Operation, u8); 3] =
    [(Operation::Read, 3), (Operation::Delete, 6), (Operation::Describe, 8)];

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: DescribeGroupsRequest) -> Reply {
    // Folding what was written last reads the log.
    elsewhere(node, cx, request, handle_blocking)
}

fn handle_blocking(node: &Arc<Node>, cx: &Context, request: DescribeGroupsRequest) -> Reply {
    let with_operations = request.include_authorized_operations;
    let groups = once(request.groups, |group_id| (0, group_id.as_str()));
    let groups = groups.into_iter().map(|group_id| describe(node, cx, group_id, with_operations)).collect();
    Reply::Now(DescribeGroupsResponse { groups, ..DescribeGroupsResponse::default() }.into())
}

fn describe(node: &Node, cx: &Context, group_id: String, with_operations: bool) -> DescribedGroup {
    if !cx.allows(Operation::Describe, Resource::Group(&group_id)) {
        let error_code = node.error(ErrorCode::GroupAuthorizationFailed);
        return DescribedGroup { error_code, group_id, ..DescribedGroup::default() };
    }
    let mut described = match node.groups.describe(&group_id) {
        Ok(description) => known(description),
        // Before version 6 a group that does not exist is dead and no error.
        Err(GroupError::NotFound) if cx.version < 6 => {
            DescribedGroup { group_state: "Dead".to_owned(), ..DescribedGroup::default() }
        }
        Err(GroupError::NotFound) => DescribedGroup {
            error_code: node.error(ErrorCode::GroupIdNotFound),
            error_message: Some(format!("group {group_id} does not exist")),
            group_state: "Dead".to_owned(),
            ..DescribedGroup::default()
        },
        Err(error) => {
            DescribedGroup { error_code: node.error(group_error_code(&error)), ..DescribedGroup::default() }
        }
    };
    if with_operations {
        let allowed =
            OPERATIONS.iter().filter(|(operation, _)| cx.allows(*operation, Resource::Group(&group_id)));
        described.authorized_operations = allowed.fold(0, |bits, (_, number)| bits | 1 << number);
    }
    described.group_id = group_id;
    described
}

fn known(description: GroupDescription) -> DescribedGroup {
    let GroupDescription { state, protocol_type, protocol, members } = description;
    DescribedGroup {
        group_state: state.to_owned(),
        members: members.into_iter().map(|(id, described)| member(id, described, &protocol)).collect(),
        protocol_type,
        protocol_data: protocol,
        ..DescribedGroup::default()
    }
}

/// Without a protocol the group is not stable: there is nothing yet that a member was given.
fn member(member_id: String, member: Member, protocol: &str) -> DescribedGroupMember {
    let stable = !protocol.is_empty();
    DescribedGroupMember {
        member_id,
        member_metadata: member.metadata(protocol),
        member_assignment: if stable { member.assignment } else { bytes::Bytes::new() },
        group_instance_id: member.instance_id,
        client_id: member.client_id,
        client_host: member.client_host,
    }
}
