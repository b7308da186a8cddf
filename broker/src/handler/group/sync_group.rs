//! SyncGroup: the leader gives everyone's assignment, everyone gets their own.

use super::{Node, group_error_code, reply};
use crate::group::{Caller, GroupError, SyncGroup, Synced};
use bytes::Bytes;
use kappa_protocol::messages::{SyncGroupRequest, SyncGroupResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: SyncGroupRequest) -> Reply {
    let node = node.clone();
    if !cx.allows(Operation::Read, Resource::Group(&request.group_id)) {
        return Reply::Now(failed(node.error(ErrorCode::GroupAuthorizationFailed)).into());
    }
    let names_protocol = request.protocol_type.is_some() && request.protocol_name.is_some();
    let waiting = if cx.version >= 5 && !names_protocol {
        Err(GroupError::InconsistentProtocol)
    } else {
        let assignments = request.assignments.iter();
        let sync = SyncGroup {
            caller: Caller {
                member_id: &request.member_id,
                instance_id: request.group_instance_id.as_deref(),
            },
            generation: request.generation_id,
            protocol_type: request.protocol_type.as_deref(),
            protocol: request.protocol_name.as_deref(),
            assignments: assignments
                .map(|given| (given.member_id.clone(), Bytes::copy_from_slice(&given.assignment)))
                .collect(),
        };
        node.groups.sync(&request.group_id, sync)
    };
    reply(waiting, move |answer| match answer {
        Ok(Synced { protocol_type, protocol, assignment }) => SyncGroupResponse {
            protocol_type: Some(protocol_type),
            protocol_name: Some(protocol),
            assignment,
            ..SyncGroupResponse::default()
        }
        .into(),
        Err(error) => failed(node.error(group_error_code(&error))).into(),
    })
}

fn failed(error_code: i16) -> SyncGroupResponse {
    SyncGroupResponse { error_code, ..SyncGroupResponse::default() }
}
