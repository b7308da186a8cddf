//! JoinGroup: become a member, or stay one in the next generation.

use super::{Node, group_error_code, reply};
use crate::group::{GroupError, JoinGroup, Joined, JoinedMember, Joiner};
use bytes::Bytes;
use kappa_protocol::messages::join_group_response::JoinGroupResponseMember;
use kappa_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;
use uuid::Uuid;

/// Bytes of the client's name that go into a member id.
const NAME_BYTES_MAX: usize = 255;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: JoinGroupRequest) -> Reply {
    let (node, version) = (node.clone(), cx.version);
    if !cx.allows(Operation::Read, Resource::Group(&request.group_id)) {
        let code = node.error(ErrorCode::GroupAuthorizationFailed);
        return Reply::Now(failed(code, request.member_id, version).into());
    }
    let (group, member_id) = (request.group_id.clone(), request.member_id.clone());
    let fresh = node.topics.env().clock.fresh_id();
    let waiting = node.groups.join(&group, join(cx, request, fresh));
    reply(waiting, move |answer| match answer {
        Ok(joined) => succeeded(joined).into(),
        Err(error) => {
            let code = node.error(group_error_code(&error));
            let member_id = match error {
                GroupError::MemberIdRequired { member_id } => member_id,
                _ => member_id,
            };
            failed(code, member_id, version).into()
        }
    })
}

fn join(cx: &Context, request: JoinGroupRequest, fresh: Uuid) -> JoinGroup {
    let client_id = cx.client_id.as_deref().unwrap_or_default();
    let joiner = if request.member_id.is_empty() {
        let name = request.group_instance_id.as_deref().unwrap_or(client_id);
        let name = name.get(..name.floor_char_boundary(NAME_BYTES_MAX)).unwrap_or_default();
        Joiner::New { member_id: format!("{name}-{fresh}"), must_return: cx.version >= 4 }
    } else {
        Joiner::Known(request.member_id)
    };
    // Version 0 has no rebalance timeout; a timeout of nothing would remove members as fast as they join.
    let rebalance_timeout_ms = match request.rebalance_timeout_ms {
        timeout_ms if timeout_ms > 0 => timeout_ms,
        _ => request.session_timeout_ms,
    };
    let protocols = request.protocols.into_iter();
    JoinGroup {
        joiner,
        instance_id: request.group_instance_id,
        client_id: client_id.to_owned(),
        client_host: format!("/{}", cx.client_address),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms,
        protocol_type: request.protocol_type,
        protocols: protocols.map(|p| (p.name, Bytes::copy_from_slice(&p.metadata))).collect(),
        can_skip_assignment: cx.version >= 9,
    }
}

fn succeeded(joined: Joined) -> JoinGroupResponse {
    let member = |member: JoinedMember| JoinGroupResponseMember {
        member_id: member.member_id,
        group_instance_id: member.instance_id,
        metadata: member.metadata,
    };
    JoinGroupResponse {
        error_code: ErrorCode::None.code(),
        generation_id: joined.generation,
        protocol_type: Some(joined.protocol_type),
        protocol_name: Some(joined.protocol),
        leader: joined.leader,
        skip_assignment: joined.skip_assignment,
        member_id: joined.member_id,
        members: joined.members.into_iter().map(member).collect(),
        ..JoinGroupResponse::default()
    }
}

fn failed(error_code: i16, member_id: String, version: i16) -> JoinGroupResponse {
    JoinGroupResponse {
        error_code,
        generation_id: -1,
        protocol_type: None,
        protocol_name: (version < 7).then(String::new),
        member_id,
        ..JoinGroupResponse::default()
    }
}
