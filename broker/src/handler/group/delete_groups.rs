//! DeleteGroups: removes groups without members, with all they committed.

use super::{Node, elsewhere, group_error_code};
use crate::partition::Durable;
use kappa_protocol::messages::delete_groups_response::DeletableGroupResult;
use kappa_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};
use kappa_protocol::{Context, ErrorCode, Operation, Reply, Resource};
use std::sync::Arc;

pub(crate) fn handle(node: &Arc<Node>, cx: &Context, request: DeleteGroupsRequest) -> Reply {
    // Folding what was written last reads the log.
    elsewhere(node, cx, request, handle_blocking)
}

fn handle_blocking(node: &Arc<Node>, cx: &Context, request: DeleteGroupsRequest) -> Reply {
    let begun: Vec<(String, Result<Durable, ErrorCode>)> = request
        .groups_names
        .into_iter()
        .map(|group| {
            let deletion = delete(node, cx, &group);
            (group, deletion)
        })
        .collect();
    let node = node.clone();
    Reply::later(async move {
        let mut results = Vec::with_capacity(begun.len());
        for (group_id, deletion) in begun {
            let code = match deletion {
                Ok(durable) => match durable.await {
                    Ok(()) => ErrorCode::None,
                    Err(_) => ErrorCode::CoordinatorNotAvailable,
                },
                Err(code) => code,
            };
            results.push(DeletableGroupResult { group_id, error_code: node.error(code) });
        }
        DeleteGroupsResponse { results, ..DeleteGroupsResponse::default() }.into()
    })
}

fn delete(node: &Node, cx: &Context, group: &str) -> Result<Durable, ErrorCode> {
    if !cx.allows(Operation::Delete, Resource::Group(group)) {
        return Err(ErrorCode::GroupAuthorizationFailed);
    }
    node.groups.delete_group(group).map_err(|error| group_error_code(&error))
}
