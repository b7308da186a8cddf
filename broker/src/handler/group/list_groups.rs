//! ListGroups: every group, or those in some states or of some types.

use super::{Node, elsewhere, group_error_code};
use kappa_protocol::messages::list_groups_response::ListedGroup;
use kappa_protocol::messages::{ListGroupsRequest, ListGroupsResponse};
use kappa_protocol::{Context, Operation, Reply, Resource};
use std::sync::Arc;

const CLASSIC: &str = "classic";

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: ListGroupsRequest) -> Reply {
    // Folding what was written last reads the log.
    elsewhere(node, cx, request, handle_blocking)
}

fn handle_blocking(node: &Arc<Node>, cx: &Context, request: ListGroupsRequest) -> Reply {
    let wanted = |filter: &[String], value: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
    };
    let all = cx.allows(Operation::Describe, Resource::Cluster);
    let response = match node.groups.list() {
        Ok(groups) => {
            let groups = groups
                .into_iter()
                .filter(|group| all || cx.allows(Operation::Describe, Resource::Group(&group.id)))
                .filter(|group| wanted(&request.states_filter, group.state))
                .filter(|_| wanted(&request.types_filter, CLASSIC))
                .map(|group| ListedGroup {
                    group_id: group.id,
                    protocol_type: group.protocol_type,
                    group_state: group.state.to_owned(),
                    group_type: CLASSIC.to_owned(),
                });
            ListGroupsResponse { groups: groups.collect(), ..ListGroupsResponse::default() }
        }
        Err(error) => ListGroupsResponse {
            error_code: node.error(group_error_code(&error)),
            ..ListGroupsResponse::default()
        },
    };
    Reply::Now(response.into())
}
